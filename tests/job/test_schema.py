"""The shipped JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.schema import SCHEMA_FILE, json_schema, schema_text

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}
ACCEPTED: list[dict[str, Any]] = [
    GOOD,
    {**GOOD, "version": 1, "description": None, "params": {"width": None, "guidance_scale": 5, "extra": {"a": [1]}}},
    {**GOOD, "prompts": {"source": "s3://x/*.csv", "fields": {"id": None, "prompt": "Prompt"}, "rename": {"a": "b"}}},
    {**GOOD, "prompts": {"source": [{"prompt": "a", "n": 1}, "b"], "drop": ["n"], "limit": 3, "where": None}},
    {**GOOD, "matrix": {"guidance_scale": [3, 5.5]}, "zip": {"steps": [1, 2], "seed": [3, 4]}},
    {**GOOD, "matrix": {"extra.a": [1, [2]]}, "draw": {"n": 2, "extra.b": {"uniform": [0, 1]}}},
    {**GOOD, "prompts": {"source": [{"prompt": "a", "n": 1}], "fields": {"extra.a": "n"}}},
    {**GOOD, "execution": {"actors": "auto", "batch_size": 8, "gpus_per_actor": 0.5, "executor": "ray"}},
    {**GOOD, "output": {"path": "s3://x", "storage_options": {"secret": {"env": "NAME"}, "anon": False}}},
    {
        **GOOD,
        "model": "avbatch/shapes64",
        "backend": {"kind": "diffusers", "loras": [{"source": "x", "scale": 0.5}], "scheduler": None},
    },
]
REFUSED: list[dict[str, Any]] = [
    {name: value for name, value in GOOD.items() if name != "output"},
    {**GOOD, "name": "a b"},
    {**GOOD, "task": "txt2img"},
    {**GOOD, "nme": "x"},
    {**GOOD, "backend": {"kind": "procedual"}},
    {**GOOD, "backend": {"delay_s": 1}},
    {**GOOD, "backend": {"kind": "procedural", "device": "cpu"}},
    {**GOOD, "params": {"steps": "3"}},
    {**GOOD, "params": {"steps": 0}},
    {**GOOD, "params": None},
    {**GOOD, "matrix": {"step": [1]}},
    {**GOOD, "matrix": {"steps": 1}},
    {**GOOD, "matrix": {"extra": {"a": [1]}}},
    {**GOOD, "prompts": {"source": ["a"], "fields": {"promt": "a"}}},
    {**GOOD, "draw": {"n": 2, "step": {"uniform": [0, 1]}}},
    {**GOOD, "prompts": {"source": [1]}},
    {**GOOD, "execution": {"actors": 0}},
    {**GOOD, "output": {"path": "x", "storage_options": {"secret": {"env": "a b"}}}},
]
SPECS = Path(__file__).parents[2] / "specs"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_shipped_schema_is_what_the_models_give() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run `python -m abstractvision_batch.job.schema` and commit the file"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("data", ACCEPTED)
def test_the_schema_accepts_what_loads(data: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(data)) == []
    load_job(data)


@pytest.mark.parametrize("data", REFUSED)
def test_the_schema_refuses_what_does_not_load(data: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(data))
    with pytest.raises(SpecError):
        load_job(data)


@pytest.mark.parametrize("file", sorted(SPECS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_schema_accepts_the_specs_of_the_repository(file: Path) -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))) == []


def test_every_part_of_the_spec_is_described() -> None:
    schema = json_schema()
    for part in (schema, *schema["$defs"].values()):
        assert part.get("description"), part["title"]
