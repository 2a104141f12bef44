"""Ranges of values in a spec."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.ranges import Range, list_values
from abstractvision_batch.job.schema import json_schema

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}


def _problems_of(**changes: object) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load_job({**GOOD, **changes})
    return tuple(line.removeprefix("<spec>: ") for line in caught.value.problems)


def test_a_range_is_the_list_of_its_values_with_the_last_one() -> None:
    ranges = {
        "steps": {"from": 10, "to": 50, "step": 10},
        "guidance_scale": {"from": 0, "to": 1, "step": 0.1},
        "seed": {"from": 3, "to": 1, "step": -1},
    }
    spec = load_job({**GOOD, "matrix": ranges}).spec

    assert spec.matrix["steps"] == [10, 20, 30, 40, 50]
    assert spec.matrix["guidance_scale"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert spec.matrix["seed"] == [3, 2, 1]


def test_a_range_and_its_list_are_one_job() -> None:
    written = load_job({**GOOD, "zip": {"steps": {"from": 1, "to": 3}}, "seeds": {"from": 5, "to": 7}})
    listed = load_job({**GOOD, "zip": {"steps": [1, 2, 3]}, "seeds": [5, 6, 7]})

    assert written.fingerprint("") == listed.fingerprint("")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"matrix": {"steps": {"from": 9, "to": 1}}},
            "matrix.steps: is empty: steps of 1 do not lead from 9 to 1 (swap from and to, or turn the sign of step)",
        ),
        (
            {"matrix": {"steps": {"from": 1, "to": 9, "step": 0}}},
            "matrix.steps.step: 0 never comes to an end (give the distance from each value to the next)",
        ),
        (
            {"zip": {"seed": {"from": 0, "to": 1_000_000}}},
            "zip.seed: has 1,000,001 values, and a list at most 10,000 (make step larger)",
        ),
        (
            {"matrix": {"seed": {"from": 0, "to": 1e300, "step": 1e-300}}},
            "matrix.seed: has far too many values, and a list at most 10,000 (make step larger)",
        ),
        (
            {"matrix": {"steps": {"from": 1, "to": 9, "stop": 2}}},
            "matrix.steps.stop: unknown field (did you mean step?)",
        ),
        (
            {"matrix": {"steps": {"from": 1}}},
            "matrix.steps.to: required field is missing (the last value, where a step meets it)",
        ),
        ({"matrix": {"steps": {"from": 1, "to": "9"}}}, 'matrix.steps.to: "9" is not a number (without quotes)'),
        (
            {"matrix": {"steps": {"from": 1, "to": 2, "step": 0.5}}},
            "matrix.steps[1]: 1.5 is not an integer from 1 to 10000",
        ),
        ({"seeds": {"from": -2, "to": 2}}, "seeds: -2 is not an integer from 0 to 9223372036854775807"),
    ],
)
def test_a_range_that_cannot_be_meant_is_refused_where_it_stands(changes: dict[str, Any], problem: str) -> None:
    assert problem in _problems_of(**changes)


def test_a_problem_of_a_range_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "name: demo\nmodel: avbatch/procedural\nbackend: {kind: procedural}\nprompts: {source: [a fox]}\n"
        "output: {path: runs/demo}\nmatrix:\n  steps:\n    from: 1\n    to: 9\n    step: 0\n"
    )

    with pytest.raises(SpecError, match=r"spec\.yaml:10:5: matrix\.steps\.step: 0 never"):
        load_job(tmp_path / "spec.yaml")


@given(first=st.integers(-1000, 1000), step=st.integers(1, 300), count=st.integers(1, 200), places=st.integers(0, 4))
def test_decimals_of_a_range_are_those_that_a_person_would_write(
    first: int, step: int, count: int, places: int
) -> None:
    scale = Decimal(10) ** -places
    wanted = [float((first + index * step) * scale) for index in range(count)]
    ends = {"from": wanted[0], "to": wanted[-1], "step": float(step * scale)}

    assert list_values(Range(**ends)) == wanted


def test_the_schema_takes_lists_and_ranges() -> None:
    def complains(matrix: object, seeds: object) -> bool:
        spec = {**GOOD, "matrix": {"steps": matrix}, "seeds": seeds}
        return bool(list(jsonschema.Draft202012Validator(json_schema()).iter_errors(spec)))

    assert not complains([1, 2], {"from": 1, "to": 3})
    assert not complains({"from": 1, "to": 3, "step": 2}, [1, 2])
    assert complains({"from": 1, "to": 3, "stop": 2}, [1])
    assert complains([1], {"to": 3})
