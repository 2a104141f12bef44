"""Points that are drawn or skipped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.draw import DrawSpec, draw_points
from tests.support.planning import Planner

DRAW: dict[str, Any] = {"n": 5, "guidance_scale": {"uniform": [1, 9]}, "steps": {"choice": [20, 30]}}

PINNED = [
    ["y", 28, 2.36961, 0.062751, 1452692760896730729],
    ["y", 50, 7.42534, 0.0141804, 2252976820504461581],
    ["x", 35, 6.68707, 0.153898, 2605035845587262714],
]


def _problems_of(planner: Planner, **sections: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        planner.build(["a"], **sections)
    return tuple(line.removeprefix("<spec>: ") for line in caught.value.problems)


def test_drawn_values_stand_in_every_row_and_are_the_same_for_every_prompt(planner: Planner) -> None:
    plan = planner.build(["a", "b"], draw=DRAW, samples_per_prompt=2)

    assert (plan.summary.matrix_points, plan.summary.requests) == (5, 20)
    points = [(row["guidance_scale"], row["steps"]) for row in plan.rows]
    assert points == [point for point in points[::4] for _ in range(4)]
    assert len(set(points)) == 5
    assert all(1 <= scale <= 9 and steps in (20, 30) for scale, steps in points)


def test_draws_are_inside_the_matrix(planner: Planner) -> None:
    plan = planner.build(["a"], draw={**DRAW, "n": 2}, matrix={"width": [32, 64]})

    assert plan.column("width") == [32, 32, 64, 64]
    assert plan.column("guidance_scale")[:2] == plan.column("guidance_scale")[2:]


def test_draws_are_the_same_for_ever(planner: Planner) -> None:
    draw = {
        "n": 3,
        "guidance_scale": {"uniform": [1, 9]},
        "strength": {"loguniform": [0.01, 1]},
        "steps": {"int": [10, 50]},
        "seed": {"int": [0, 2**62]},
        "negative_prompt": {"choice": ["x", "y"]},
    }

    assert [list(point.values()) for point in draw_points(DrawSpec.model_validate(draw), 7)] == PINNED


_number = st.floats(0.001, 1000, allow_nan=False) | st.integers(1, 1000)
_ends = st.lists(_number, min_size=2, max_size=2, unique_by=float).map(sorted)
_distributions = st.one_of(
    _ends.map(lambda ends: {"uniform": ends}),
    _ends.map(lambda ends: {"loguniform": ends}),
    st.lists(st.integers(1, 1000), min_size=2, max_size=2, unique=True).map(lambda ends: {"int": sorted(ends)}),
    st.lists(st.integers(1, 1000), min_size=1, max_size=9, unique=True).map(lambda values: {"choice": values}),
)


@given(first=_distributions, second=_distributions, seed=st.integers(0, 2**63 - 1), n=st.integers(1, 40))
def test_a_larger_n_only_adds_and_no_point_is_there_twice(
    first: dict[str, Any], second: dict[str, Any], seed: int, n: int
) -> None:
    def points(n: int, **drawn: Any) -> list[dict[str, Any]]:
        return draw_points(DrawSpec.model_validate({"n": n, **drawn}), seed)

    few, many = points(n, steps=first, fps=second), points(2 * n, steps=first, fps=second)

    assert many[: len(few)] == few
    assert len({tuple(point.values()) for point in many}) == len(many) <= 2 * n
    for drawn, name in ((first, "steps"), (second, "fps")):
        ((kind, values),) = drawn.items()
        found = [point[name] for point in many]
        assert all(value in values if kind == "choice" else values[0] <= value <= values[1] for value in found)


def test_every_point_of_a_small_space_is_drawn_when_as_many_are_asked_for(planner: Planner) -> None:
    plan = planner.build(["a"], draw={"n": 6, "steps": {"int": [1, 3]}, "guidance_scale": {"choice": [2, 3]}})

    assert {(row["steps"], row["guidance_scale"]) for row in plan.rows} == {(s, g) for s in (1, 2, 3) for g in (2, 3)}


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"draw": {"n": 5}}, "draw: draws no parameter (add one, as guidance_scale: {uniform: [1, 9]})"),
        (
            {"draw": {"n": 7, "steps": {"int": [1, 3]}}},
            "draw.n: there are only 3 different points to draw (make n smaller)",
        ),
        (
            {"draw": {"n": 1, "steps": {"uniform": [1, 9]}}},
            "draw.steps.uniform: steps is a whole number (write int: [1, 9])",
        ),
        (
            {"draw": {"n": 1, "fps": {"uniform": [9, 1]}}},
            "draw.fps.uniform: 9 is not below 1 (write the lower end first)",
        ),
        (
            {"draw": {"n": 1, "fps": {"loguniform": [0, 1]}}},
            "draw.fps.loguniform: a logarithm needs ends above 0",
        ),
        ({"draw": {"n": 1, "steps": {}}}, "draw.steps: says nothing (give one of uniform, loguniform, int, choice)"),
        (
            {"draw": {"n": 1, "steps": {"randint": [1, 2]}}},
            "draw.steps.randint: unknown field (did you mean int?)",
        ),
        ({"draw": {"n": 1, "setps": {"int": [1, 2]}}}, "draw.setps: unknown field (did you mean steps?)"),
        (
            {"draw": {"n": 1, "steps": {"choice": [1, "2"]}}},
            'draw.steps.choice[1]: "2" is not an integer from 1 to 10000',
        ),
        (
            {"draw": DRAW, "matrix": {"steps": [1]}},
            "draw.steps: is in matrix too (a parameter varies in one of them)",
        ),
    ],
)
def test_draws_that_cannot_be_meant_are_refused(planner: Planner, sections: Any, problem: str) -> None:
    assert any(line.startswith(problem.removesuffix(")")) for line in _problems_of(planner, **sections))


def test_everything_that_may_be_drawn_is_checked_by_the_card(planner: Planner) -> None:
    shapes: dict[str, Any] = {"model": "avbatch/shapes64", "backend": {"kind": "diffusers"}}

    (problem,) = _problems_of(planner, draw={"n": 1, "guidance_scale": {"uniform": [1, 11]}}, **shapes)
    assert problem.startswith("draw.guidance_scale.uniform[1]: 11 is above the maximum 10")

    (problem,) = _problems_of(planner, draw={"n": 2, "width": {"choice": [64, 65]}}, **shapes)
    assert problem.startswith("draw.width.choice[1]: 65 is not allowed (only 64;")

    video: dict[str, Any] = {"model": "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "backend": {"kind": "diffusers"}}
    (problem,) = _problems_of(planner, task="text_to_video", draw={"n": 1, "num_frames": {"int": [5, 9]}}, **video)
    assert problem.startswith("draw.num_frames.int: of what it draws, 6 is")


def test_points_that_skip_describes_are_left_out_and_not_counted(planner: Planner) -> None:
    plan = planner.build(
        ["a", "b"], matrix={"steps": [20, 40], "guidance_scale": [2, 5]}, skip="steps > 30 and guidance_scale < 3"
    )

    assert {(row["steps"], row["guidance_scale"]) for row in plan.rows} == {(20, 2.0), (20, 5.0), (40, 5.0)}
    assert (plan.summary.matrix_points, plan.summary.requests) == (3, 6)


def test_skip_reads_draws_and_what_params_give(planner: Planner) -> None:
    plan = planner.build(["a"], draw={**DRAW, "n": 20}, params={"width": 64}, skip="guidance_scale > 5 and width = 64")

    assert 0 < plan.summary.requests < 20
    assert max(plan.column("guidance_scale")) <= 5


def test_a_size_that_is_skipped_is_no_problem_of_a_picture(planner: Planner) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(planner.folder / "square.png")
    plan = planner.build(
        [{"prompt": "a", "image": "square.png"}],
        task="image_to_image",
        matrix={"width": [32, 64], "height": [32, 64]},
        skip="width != height",
    )

    assert [(row["width"], row["height"]) for row in plan.rows] == [(32, 32), (64, 64)]


@pytest.mark.parametrize(
    ("skip", "problem"),
    [
        ("stpes > 3", "skip: 'stpes > 3' at character 1: no parameter 'stpes' (did you mean steps?"),
        ("steps > 1", "skip: leaves out every point, 2 of 2 (nothing would be generated)"),
        ("steps", "skip: 'steps': is BIGINT, and a condition is true or false"),
        ("steps > ", "skip: 'steps > ' at"),
        ("(select 1) = steps", "skip: "),
    ],
)
def test_a_skip_that_cannot_be_meant_is_refused(planner: Planner, skip: str, problem: str) -> None:
    (found,) = _problems_of(planner, matrix={"steps": [20, 40]}, skip=skip)

    assert found.startswith(problem)


def test_a_skip_on_what_rows_set_for_themselves_is_refused(planner: Planner) -> None:
    with pytest.raises(SpecError, match=r"skip: the prompts' column 'width' sets width, which is not the same for all"):
        planner.build([{"prompt": "a", "width": 64}], matrix={"steps": [20, 40]}, skip="width > 32 and steps > 30")
