"""`extends`: a spec over another one, and merge keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.schema import json_schema

BASE = """\
version: 1
name: base
model: avbatch/procedural
backend: {kind: procedural}
prompts:
  source: [a fox, an owl]
  fields: {id: uid}
params: {width: 64, height: 32, steps: 5}
matrix:
  guidance_scale: {from: 1, to: 9, step: 4}
  seed: [1, 2, 3]
output:
  path: runs/base
"""


def _write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def _problems_of(path: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_job(path)
    return [line.replace(f"{path.parent}/", "") for line in caught.value.problems]


def test_mappings_are_merged_lists_replaced_and_null_unsets(tmp_path: Path) -> None:
    child = (
        "extends: base.yaml\nname: child\nprompts: {source: [a cat], fields: {id: null}}\n"
        "params: {steps: 9, width: null}\nmatrix: {guidance_scale: {from: 2, to: 3}, seed: null}\n"
    )
    spec = load_job(_write(tmp_path, child=child, base=BASE)).spec

    assert (spec.name, spec.model, spec.extends) == ("child", "avbatch/procedural", None)
    assert (spec.params.steps, spec.params.width, spec.params.height) == (9, None, 32)
    assert spec.matrix == {"guidance_scale": [2.0, 3.0]}
    assert (spec.prompts.source, spec.prompts.fields.id) == (["a cat"], None)
    assert spec.output.path == "runs/base"


def test_a_backend_of_another_kind_replaces_that_of_the_base(tmp_path: Path) -> None:
    base = BASE.replace("{kind: procedural}", "{kind: procedural, delay_s: 0.5}")
    same = "extends: base.yaml\nbackend: {kind: procedural, marker: x}\n"
    other = "extends: base.yaml\nmodel: avbatch/shapes64\nbackend: {kind: diffusers}\nparams: {height: 64, width: 64}\n"
    _write(tmp_path, base=base, same=same.replace(", marker: x", ""), other=other)

    assert load_job(tmp_path / "same.yaml").spec.backend.model_dump()["delay_s"] == 0.5
    assert load_job(tmp_path / "other.yaml").spec.backend.kind == "diffusers"


def test_what_is_unset_stays_unset_over_several_levels(tmp_path: Path) -> None:
    child = "extends: middle.yaml\nmatrix: null\n"
    _write(tmp_path, base=BASE, middle="extends: base.yaml\nmatrix: {steps: [1]}\n")

    assert load_job(_write(tmp_path, child=child)).spec.matrix == {}


def test_a_variant_replaces_a_range_of_its_job_as_a_whole(tmp_path: Path) -> None:
    child = "extends: base.yaml\nvariants:\n  wide: {}\n  narrow: {matrix: {guidance_scale: {from: 1, to: 3}}}\n"
    wide, narrow = load_job(_write(tmp_path, child=child, base=BASE)).variants

    assert wide.spec.matrix["guidance_scale"] == [1.0, 5.0, 9.0]
    assert narrow.spec.matrix["guidance_scale"] == [1.0, 2.0, 3.0]


def test_a_spec_extends_one_that_extends_one_in_other_folders(tmp_path: Path) -> None:
    _write(tmp_path, base=BASE)
    _write(tmp_path / "a", middle="extends: ../base.yaml\nparams: {steps: 7}\n")
    child = _write(tmp_path / "b", child="extends: ../a/middle.yaml\nname: child\n")
    job = load_job(child)

    assert (job.spec.name, job.spec.params.steps, job.spec.params.width) == ("child", 7, 64)
    assert [path.resolve().name for path in job.files] == ["child.yaml", "middle.yaml", "base.yaml"]


def test_a_problem_is_placed_in_the_file_that_has_the_line(tmp_path: Path) -> None:
    child = "extends: base.yaml\nname: child\nparams: {stpes: 3}\nmatrix:\n  seed: [1, -1]\n"
    base = BASE.replace("width: 64", "width: 0").replace("  path: runs/base\n", "  pth: runs/base\n")
    path = _write(tmp_path, child=child, base=base)

    assert _problems_of(path) == [
        "child.yaml:3:10: params.stpes: unknown field (did you mean steps?)",
        "child.yaml:5:13: matrix.seed[1]: -1 is not an integer from 0 to 9223372036854775807 (leave it out for a "
        "derived seed)",
        "base.yaml:8:10: params.width: 0 is not an integer from 1 to 16384",
        "base.yaml:12:1: output.path: required field is missing (folder or URL of the run, one run each; a relative "
        "path starts at the current folder)",
        "base.yaml:13:3: output.pth: unknown field (did you mean path?)",
    ]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"child": "extends: no.yaml\n"}, "child.yaml:1:1: extends: no.yaml: no such file"),
        (
            {"child": "name: a\nextends: base.yaml\n", "base": "extends: child.yaml\n"},
            "base.yaml:1:1: extends: comes back to child.yaml (child.yaml → base.yaml → child.yaml)",
        ),
        (
            {"child": "extends: child.yaml\n"},
            "child.yaml:1:1: extends: comes back to child.yaml (child.yaml → child.yaml)",
        ),
        ({"child": "extends: [a, b]\n"}, "child.yaml:1:1: extends: a list of 2 is not the path of a spec"),
        (
            {"child": "extends: base.yaml\n", "base": "- a\n"},
            "base.yaml:1:1: a spec is a mapping of fields, not a list of 1",
        ),
        ({"child": "extends: base.yaml\n", "base": "a: *b\n"}, "base.yaml:1:4: *b refers to nothing written before it"),
    ],
)
def test_a_base_that_cannot_be_read_is_refused_where_it_is_named(
    tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    (found,) = _problems_of(_write(tmp_path, **files))

    assert found.startswith(problem)


def test_overrides_win_over_all_and_cannot_extend(tmp_path: Path) -> None:
    path = _write(tmp_path, child="extends: base.yaml\nparams: {steps: 9}\n", base=BASE)

    assert load_job(path, overrides=["params.steps=2"]).spec.params.steps == 2
    with pytest.raises(SpecError, match=r"--set extends=x\.yaml: extends: is read before --set"):
        load_job(path, overrides=["extends=x.yaml"])


def test_a_mapping_extends_a_file_of_its_folder(tmp_path: Path) -> None:
    _write(tmp_path, base=BASE)

    assert load_job({"extends": "base.yaml", "name": "child"}, base_dir=tmp_path).spec.params.steps == 5


def test_the_same_job_written_out_has_the_same_fingerprint(tmp_path: Path) -> None:
    path = _write(tmp_path, child="extends: base.yaml\n", base=BASE)

    assert load_job(path).fingerprint("") == load_job(tmp_path / "base.yaml").fingerprint("")


def test_merge_keys_and_a_place_for_anchors_are_read(tmp_path: Path) -> None:
    text = BASE.replace("params: {", "x-size: &size {width: 96, steps: 3}\nparams: {<<: *size, ").replace(
        "width: 64, ", ""
    )
    spec = load_job(_write(tmp_path, spec=text)).spec

    assert (spec.params.width, spec.params.height, spec.params.steps) == (96, 32, 5)


def test_the_schema_requires_less_of_a_spec_that_extends_one() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())

    def messages(spec: dict[str, Any]) -> list[str]:
        return [error.message for error in validator.iter_errors(spec)]

    assert messages({"extends": "base.yaml", "prompts": {"limit": 3}, "x-a": 1}) == []
    assert messages({"extends": "base.yaml", "promts": {"limit": 3}})
    assert "'source' is a required property" in messages(
        {"name": "a", "model": "b", "prompts": {"limit": 3}, "output": {"path": "c"}}
    )
