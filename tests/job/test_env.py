"""Environment variables: in the declared paths only, and secrets never in a dump."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import resolve_options, resolve_secret
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.load import load_job

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}


def test_a_variable_is_replaced_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://mine")

    spec = load_job({**GOOD, "output": {"path": "${BUCKET}/runs/$${x}"}, "prompts": {"source": "${BUCKET}/p.txt"}}).spec

    assert spec.output.path == "s3://mine/runs/${x}"
    assert spec.prompts.source == "s3://mine/p.txt"


def test_everywhere_else_a_dollar_is_a_dollar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://mine")

    spec = load_job(
        {
            **GOOD,
            "prompts": {"source": ["${BUCKET}", "$${BUCKET}"], "template": "${BUCKET} {{ prompt }}"},
            "params": {"negative_prompt": "${BUCKET}"},
            "description": "${BUCKET}",
        }
    ).spec

    assert spec.prompts.source == ["${BUCKET}", "$${BUCKET}"]
    assert {spec.prompts.template, spec.params.negative_prompt, spec.description} == {
        "${BUCKET} {{ prompt }}",
        "${BUCKET}",
    }


def test_every_unset_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the model is not called unknown: its card may be in the folder that could not be named."""
    monkeypatch.delenv("AV_A", raising=False)
    monkeypatch.delenv("AV_B", raising=False)

    with pytest.raises(SpecError) as caught:
        load_job({**GOOD, "model": "me/mine", "output": {"path": "${AV_A}"}, "registry": {"paths": ["x", "${AV_B}"]}})

    assert caught.value.problems == (
        "<spec>: registry.paths[1]: environment variable AV_B is not set (export AV_B=…)",
        "<spec>: output.path: environment variable AV_A is not set (export AV_A=…)",
    )


def test_a_variable_is_replaced_in_every_path_of_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AV_A", "/weights")
    lora = {"source": "${AV_A}/lora.safetensors"}

    backend = load_job(
        {**GOOD, "backend": {"kind": "diffusers", "loras": [lora]}, "model": "avbatch/shapes64"}
    ).spec.backend

    assert backend.model_dump()["loras"][0]["source"] == "/weights/lora.safetensors"


def test_a_secret_is_looked_up_when_it_is_used_and_stays_a_name_in_every_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    options = {"secret": {"env": "MY_SECRET"}, "anon": False, "endpoint_url": "http://x"}
    spec = load_job({**GOOD, "output": {"path": "s3://x", "storage_options": options}}).spec

    assert resolve_options(spec.output.storage_options) == {
        "secret": "hunter2",
        "anon": False,
        "endpoint_url": "http://x",
    }
    assert resolve_secret(FromEnv(env="MY_SECRET"), "api_key") == "hunter2"
    assert "hunter2" not in json.dumps(spec.model_dump(mode="json")) + repr(spec)
    assert spec.model_dump(mode="json")["output"]["storage_options"]["secret"] == {"env": "MY_SECRET"}


def test_a_way_to_find_a_token_is_no_secret() -> None:
    options = {"token": "google_default"}
    spec = load_job({**GOOD, "output": {"path": "gs://x", "storage_options": options}}).spec

    assert resolve_options(spec.output.storage_options) == options


def test_a_missing_secret_names_field_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AV_A", raising=False)
    monkeypatch.setenv("AV_B", "")

    with pytest.raises(SpecError) as caught:
        resolve_options({"key": FromEnv(env="AV_A"), "secret": FromEnv(env="AV_B")}, "output.storage_options")

    assert caught.value.problems == (
        "output.storage_options.key: environment variable AV_A is not set (export AV_A=…)",
        "output.storage_options.secret: environment variable AV_B is not set (export AV_B=…)",
    )
