"""The environment variables: one table, one rule of which key goes where, secrets by name only."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import abstractvision_batch
from abstractvision_batch.backends.from_environment import (
    VARIABLES,
    choose_target,
    describe_environment,
    find_key_variable,
    read_backend_fields,
)
from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.backends.stable_diffusion_cpp.fields import SdcppBackendSpec
from abstractvision_batch.backends.table import BACKENDS, load_section_class
from abstractvision_batch.errors import SpecError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry

OFFICIAL = "https://api.openai.com/v1"
LOCAL = "http://127.0.0.1:1234/v1"


def test_every_variable_of_a_backend_sets_a_field_of_its_section() -> None:
    sections = {kind: load_section_class(kind).model_fields for kind in BACKENDS}

    for variable in VARIABLES:
        kind, _, field = variable.sets.partition(".")
        assert not field or field == "model" or field in sections[kind], variable


def test_no_other_file_names_a_variable_to_read() -> None:
    """Messages may name one; `environ[…]` and `getenv` may not."""
    for path in Path(abstractvision_batch.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            reads = isinstance(node, ast.Subscript | ast.Call) and "environ" in ast.unparse(node)[:20]
            if reads and path.name != "from_environment.py":
                assert "ABSTRACTVISION" not in ast.unparse(node), path


def test_values_take_the_type_of_their_field() -> None:
    environ = {
        "ABSTRACTVISION_DIFFUSERS_ALLOW_DOWNLOAD": "yes",
        "ABSTRACTVISION_DIFFUSERS_AUTO_RETRY_FP32": "0",
        "ABSTRACTVISION_TIMEOUT_S": "2.5",
        "ABSTRACTVISION_SDCPP_EXTRA_ARGS": "--threads 2 --name 'a b'",
        "ABSTRACTVISION_DIFFUSERS_DEVICE": " ",
    }

    assert read_backend_fields(environ, "diffusers") == {"allow_download": True, "auto_retry_fp32": False}
    assert read_backend_fields(environ, "openai") == {"timeout_s": 2.5}
    assert read_backend_fields(environ, "sdcpp")["extra_args"] == ["--threads", "2", "--name", "a b"]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("ABSTRACTVISION_DIFFUSERS_ALLOW_DOWNLOAD", "maybe", "diffusers"),
        ("ABSTRACTVISION_TIMEOUT_S", "soon", "openai"),
        ("ABSTRACTVISION_SDCPP_EXTRA_ARGS", "'open", "sdcpp"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_variable(name: str, value: str, kind: str) -> None:
    with pytest.raises(SpecError, match=f"^{name}: "):
        read_backend_fields({name: value}, kind)


@pytest.mark.parametrize(
    ("environ", "base_url", "found"),
    [
        ({"OPENAI_API_KEY": "k"}, OFFICIAL, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "k"}, LOCAL, None),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": LOCAL}, LOCAL, "OPENAI_API_KEY"),
        ({"ABSTRACTVISION_API_KEY": "k"}, LOCAL, "ABSTRACTVISION_API_KEY"),
        ({"ABSTRACTVISION_API_KEY": "k", "ABSTRACTVISION_BASE_URL": LOCAL}, OFFICIAL, None),
        ({"ABSTRACTVISION_API_KEY": "k", "OPENAI_API_KEY": "k"}, LOCAL, "ABSTRACTVISION_API_KEY"),
        ({"ABSTRACTVISION_API_KEY": "k", "OPENAI_API_KEY": "k"}, OFFICIAL, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "k"}, "https://mine.openai.azure.com/openai/v1", None),
        ({"OPENAI_API_KEY": "k"}, "https://api.openai.com.example.org/v1", None),
        ({}, LOCAL, None),
    ],
)
def test_a_key_belongs_to_its_server(environ: dict[str, str], base_url: str, found: str | None) -> None:
    assert find_key_variable(environ, base_url) == found


def test_a_target_holds_the_name_of_a_secret_and_not_the_secret() -> None:
    environ = {"ABSTRACTVISION_BASE_URL": LOCAL, "ABSTRACTVISION_API_KEY": "s3cret"}

    target = choose_target(VisionModelCapabilitiesRegistry(), environ, kind="openai")

    assert isinstance(target.backend, OpenAIBackendSpec)
    assert target.backend.api_key is not None and target.backend.api_key.env == "ABSTRACTVISION_API_KEY"
    assert "s3cret" not in repr(target) + repr(describe_environment(environ))


def test_stable_diffusion_cpp_is_configured_by_its_files() -> None:
    environ = {
        "ABSTRACTVISION_BACKEND": "stable-diffusion.cpp",
        "ABSTRACTVISION_SDCPP_DIFFUSION_MODEL": "flux.gguf",
        "ABSTRACTVISION_SDCPP_VAE": "ae.safetensors",
        "ABSTRACTVISION_SDCPP_BIN": "/opt/sd-cli",
        "ABSTRACTVISION_TIMEOUT_S": "60",
    }

    target = choose_target(VisionModelCapabilitiesRegistry(), environ)

    assert target.model == "flux.gguf"
    assert target.backend == SdcppBackendSpec(
        diffusion_model="flux.gguf", vae="ae.safetensors", sd_cli_path="/opt/sd-cli", timeout_s=60.0
    )


OPENAI = {"ABSTRACTVISION_BACKEND": "openai", "ABSTRACTVISION_MODEL_ID": "a", "ABSTRACTVISION_BASE_URL": LOCAL}


@pytest.mark.parametrize(
    ("environ", "options", "kind", "model"),
    [
        ({}, {}, "diffusers", "avbatch/shapes64"),
        ({}, {"model": "avbatch/procedural"}, "procedural", "avbatch/procedural"),
        ({}, {"model": "some/repository"}, "diffusers", "some/repository"),
        ({}, {"kind": "procedural"}, "procedural", "avbatch/procedural"),
        ({}, {"fields": {"base_url": LOCAL}}, "openai", None),
        ({}, {"fields": {"model_path": "weights"}}, "diffusers", "weights"),
        ({"ABSTRACTVISION_MODEL_ID": "avbatch/procedural"}, {}, "procedural", "avbatch/procedural"),
        (OPENAI, {}, "openai", "a"),
        (OPENAI, {"model": "another"}, "openai", "another"),
        (OPENAI, {"model": "avbatch/procedural"}, "procedural", "avbatch/procedural"),
        (OPENAI, {"kind": "diffusers"}, "diffusers", "avbatch/shapes64"),
        (OPENAI, {"kind": "procedural"}, "procedural", "avbatch/procedural"),
        ({**OPENAI, "OPENAI_IMAGE_MODEL": "own"}, {}, "openai", "own"),
    ],
)
def test_options_win_over_variables_and_the_model_s_card_says_the_rest(
    environ: dict[str, str], options: dict[str, Any], kind: str, model: str | None
) -> None:
    target = choose_target(VisionModelCapabilitiesRegistry(), environ, **options)

    assert (target.backend.kind, target.model) == (kind, model)
