"""A spec that holds a secret is refused, wherever it stands; the message never repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.storage_options import parse_storage_options

KEY = "sk-" + "proj-abcdefgh1234"
AZURE = "Ocp-Apim-Subscription-Key"
OPENAI = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
SIGNED = "https://h/x.png?X-Amz-Credential=" + "AKIA" + "IOSFODNN7EXAMPLE"
SDCPP = {"kind": "sdcpp", "model_path": "/m.safetensors"}


def spec_of(**sections: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": ["a fox"]},
        "output": {"path": "run"},
        **sections,
    }


@pytest.mark.parametrize(
    ("field", "sections"),
    [
        ("backend.headers.X-Plain", {"backend": {**OPENAI, "headers": {"X-Plain": KEY}}}),
        ("backend.headers.X-Auth", {"backend": {**OPENAI, "headers": {"X-Auth": "abc"}}}),
        (
            "backend.headers.Ocp-Apim-Subscription-Key",
            {"backend": {**OPENAI, "headers": {"Ocp-Apim-Subscription-Key": "abc"}}},
        ),
        ("backend.served_model", {"backend": {**OPENAI, "served_model": KEY}}),
        ("backend.base_url", {"backend": {**OPENAI, "base_url": f"https://host/{KEY}/v1"}}),
        ("backend.extra_args[1]", {"backend": {**SDCPP, "extra_args": ["--x", KEY]}}),
        ("backend.extra_args[0]", {"backend": {**SDCPP, "extra_args": ["--api-key=abc"]}}),
        ("backend.extra_args[1]", {"backend": {**SDCPP, "extra_args": ["--api-key", "abc"]}}),
        ("backend.loras[0].source", {"backend": {**SDCPP, "loras": [{"source": f"https://u:{'p'}w@h/x"}]}}),
        ("params.extra.api_key", {"params": {"extra": {"api_key": "abc"}}}),
        ("params.extra.token", {"params": {"extra": {"token": "abc"}}}),
        ("params.extra.deep.er[0]", {"params": {"extra": {"deep": {"er": [KEY]}}}}),
        ("params.extra.image", {"params": {"extra": {"image": "https://h/x.png?X-Amz-Signature=abc"}}}),
        ("params.negative_prompt", {"params": {"negative_prompt": KEY}}),
        ("matrix.negative_prompt[1]", {"matrix": {"negative_prompt": ["a", KEY]}}),
        ("prompts.source[0]", {"prompts": {"source": [KEY]}}),
        ("prompts.source[0].note", {"prompts": {"source": [{"prompt": "a", "note": KEY}]}}),
        ("prompts.template", {"prompts": {"source": ["a"], "template": f"{{{{ prompt }}}} {KEY}"}}),
        ("description", {"description": f"see https://h/?k={KEY}"}),
        ("output.path", {"output": {"path": "https://u:pw@h/run"}}),
        ("output.storage_options.key", {"output": {"path": "s3://b/r", "storage_options": {"key": "abc"}}}),
        ("output.storage_options.passwd", {"output": {"path": "s3://b/r", "storage_options": {"passwd": "abc"}}}),
        ("output.storage_options.conn_str", {"output": {"path": "s3://b/r", "storage_options": {"conn_str": "abc"}}}),
        (
            "output.storage_options.endpoint_url",
            {"output": {"path": "s3://b/r", "storage_options": {"endpoint_url": "http://u:pw@h"}}},
        ),
        ("prompts.storage_options.api-key", {"prompts": {"source": ["a"], "storage_options": {"api-key": "abc"}}}),
        ("prompts.storage_options.x", {"prompts": {"source": ["a"], "storage_options": {"x": KEY}}}),
        ("execution.runtime_env.env_vars.HF_TOKEN", {"execution": {"runtime_env": {"env_vars": {"HF_TOKEN": "abc"}}}}),
        ("execution.runtime_env.pip[0]", {"execution": {"runtime_env": {"pip": ["git+https://TOKEN@github.com/a/b"]}}}),
        (
            "execution.runtime_env.container.run.password",
            {"execution": {"runtime_env": {"container": {"run": {"password": "x"}}}}},
        ),
        ("execution.address", {"execution": {"address": "http://u:pw@head:8265"}}),
        ("registry.paths[0]", {"registry": {"paths": ["https://u:pw@h/cards.yaml"]}}),
    ],
)
def test_a_secret_in_a_spec_is_refused_with_its_place_and_not_repeated(field: str, sections: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        load_job(spec_of(**sections))

    found = [problem for problem in caught.value.problems if problem.startswith(f"<spec>: {field}: ")]
    assert any("env: NAME" in one or "take it out" in one for one in found), caught.value.problems
    assert KEY not in str(caught.value) and "pw@" not in str(caught.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"params": {"extra": {"max_tokens": 3, "tokenizer": "a", "placeholder_token": "<cat>", "eta": 0.5}}},
        {"prompts": {"source": ["the letters eyJ on a sign", "a key", "token: secret", "password: 1234"]}},
        {"prompts": {"source": [{"prompt": "a", "token": "sks", "url": "https://h/?page=2"}]}},
        {"output": {"path": "abfs://box@account.dfs.core.windows.net/run", "storage_options": {"anon": True}}},
        {"output": {"path": "s3://b/r", "storage_options": {"endpoint_url": "http://127.0.0.1:9000"}}},
        {"output": {"path": "gs://b/r", "storage_options": {"token": "anon", "project": "p"}}},
        {"output": {"path": "s3://b/r", "storage_options": {"key": {"env": "A"}, "secret": {"env": "B"}}}},
        {
            "execution": {
                "runtime_env": {"env_vars": {"TOKENIZERS_PARALLELISM": "false", "HF_TOKEN": {"env": "HF_TOKEN"}}}
            }
        },
        {"execution": {"runtime_env": {"pip": ["git+ssh://git@github.com/a/b"]}}},
        {"prompts": {"source": "https://user:pw@host/p.jsonl?sig=abc"}},
        {
            "prompts": {
                "source": [{"prompt": "a", "image": "https://h/x.png?X-Amz-Credential=" + "AKIA" + "IOSFODNN7EXAMPLE"}]
            }
        },
    ],
)
def test_what_only_looks_like_a_secret_passes(sections: dict[str, Any]) -> None:
    load_job(spec_of(**sections))


def test_a_value_of_the_wrong_form_is_quoted_without_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: m\nbackend: {kind: openai, base_url: 'https://user:PASS@h/v1?sig=SIG'}\n")

    with pytest.raises(SpecError) as caught:
        load_job(path, overrides=["output.path=https://user:PASS@h/run", "steps='https://user:PASS@h/run?sig=SIG'"])

    assert "PASS" not in str(caught.value) and "SIG" not in str(caught.value)


@pytest.mark.parametrize("option", ["key=abc", "access_key=abc", "endpoint_url=http://u:pw@h", f"x={KEY}"])
def test_a_secret_on_the_command_line_is_refused(option: str) -> None:
    with pytest.raises(SpecError, match="a secret stands on the command line"):
        parse_storage_options([option])
