"""`--set dotted.key=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox", "a hen"]},
    "matrix": {"steps": [1, 2]},
    "output": {"path": "runs/demo"},
}


def _problems_of(*overrides: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load_job(GOOD, overrides=overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("name=other", ("name",), "other"),
        ("params.guidance_scale=5", ("params", "guidance_scale"), 5.0),
        ("params.negative_prompt=", ("params", "negative_prompt"), None),
        ("params.negative_prompt=null", ("params", "negative_prompt"), None),
        ("params.negative_prompt='a=b: c'", ("params", "negative_prompt"), "a=b: c"),
        ("params={seed: 9}", ("params", "seed"), 9),
        ("params.extra.deep.er={a: [1]}", ("params", "extra"), {"deep": {"er": {"a": [1]}}}),
        ("matrix.steps=[5, 6]", ("matrix",), {"steps": [5, 6]}),
        ("matrix.steps[1]=7", ("matrix",), {"steps": [1, 7]}),
        ("matrix.steps.0=7", ("matrix",), {"steps": [7, 2]}),
        ('params.extra["a.b"].c=1', ("params", "extra"), {"a.b": {"c": 1}}),
        ("prompts.source=prompts.txt", ("prompts", "source"), "prompts.txt"),
        (" execution.executor = ray", ("execution", "executor"), "ray"),
    ],
)
def test_a_value_is_yaml_and_goes_where_the_key_says(override: str, field: tuple[str, ...], value: object) -> None:
    found: Any = load_job(GOOD, overrides=[override]).spec
    for name in field:
        found = getattr(found, name)

    assert found == value


def test_later_overrides_win_and_the_mapping_is_left_alone() -> None:
    before = {**GOOD, "matrix": {"steps": [1, 2]}}

    loaded = load_job(before, overrides=["params.steps=3", "params={}", "params.seed=1", "matrix.steps[0]=9"])

    assert (loaded.spec.params.steps, loaded.spec.params.seed) == (None, 1)
    assert before["matrix"] == {"steps": [1, 2]}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("params.stpes=3", "--set params.stpes=3: params.stpes: unknown field (did you mean steps?)"),
        ("params.steps=abc", '--set params.steps=abc: params.steps: "abc" is not an integer from 1 to 10000'),
        ("matrix.steps[0]=0", "--set matrix.steps[0]=0: matrix.steps[0]: 0 is not an integer from 1 to 10000"),
        ("matrix.steps[2]=1", "--set matrix.steps[2]=1: matrix.steps is a list of 2, so 2 is none of its indexes"),
        ("matrix.steps.x=1", '--set matrix.steps.x=1: matrix.steps is a list of 2, so "x" is none of its indexes'),
        ("matrix[0]=1", "--set matrix[0]=1: matrix is a mapping, so it has no [0]"),
        ("zip.steps[0]=1", "--set zip.steps[0]=1: zip.steps has no elements yet (set the whole list)"),
        ("name.x=1", '--set name.x=1: name is "demo", so it has no x'),
        ("name", "--set name: is not of the form dotted.key=value"),
        ("=1", "--set =1: is not of the form dotted.key=value"),
        ("a..b=1", "--set a..b=1: is not of the form dotted.key=value"),
        ("[0]=1", "--set [0]=1: is not of the form dotted.key=value"),
        (
            "params.steps=[1",
            "--set params.steps=[1: not YAML: while parsing a flow sequence did not find expected ',' or ']'",
        ),
        ("params.steps=1\n--- 2", "--set params.steps=1 --- 2: a second document starts (a value is one document)"),
        (
            "output.storage_options.password=hunter2",
            "--set output.storage_options.password=…: output.storage_options.password: "
            "a secret stands in the spec (write {env: NAME})",
        ),
        (f"name={'x' * 200}", f'--set name={"x" * 75}…: name: "{"x" * 59}…" is not text of this form: '),
    ],
)
def test_a_wrong_override_is_one_line_that_shows_it(override: str, line: str) -> None:
    (problem,) = _problems_of(override)

    assert problem.startswith(line) if line.endswith(": ") else problem == line


def test_an_override_mends_a_wrong_field_and_is_checked_with_the_rest_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "name: a b\nmodel: avbatch/procedural\nbackend: {kind: procedural}\n"
        "prompts: {source: [a fox], limit: 0}\noutput: {path: runs/demo}\n"
    )

    with pytest.raises(SpecError) as caught:
        load_job(file, overrides=["name=ab", "params.seed=x"])

    assert caught.value.problems == (
        f"{file}:4:28: prompts.limit: 0 is not an integer of at least 1",
        '--set params.seed=x: params.seed: "x" is not an integer from 0 to 9223372036854775807',
    )
