"""`seeds`: an axis of a job, whose values are used as they are."""

from __future__ import annotations

from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from tests.support.planning import Planner


def test_every_prompt_and_point_is_generated_with_each_seed_as_it_is(planner: Planner) -> None:
    plan = planner.build(["a", "b"], matrix={"steps": [1, 2]}, seeds=[42, 0, 2**62])

    order = [(row["steps"], row["prompt"], row["sample_index"], row["seed"]) for row in plan.rows]
    assert order == [(s, p, n, seed) for s in (1, 2) for p in "ab" for n, seed in enumerate((42, 0, 2**62))]
    assert (plan.summary.matrix_points, plan.summary.samples_per_prompt, plan.summary.requests) == (2, 3, 12)


def test_requests_of_listed_seeds_keep_their_ids_wherever_the_seeds_stand(planner: Planner) -> None:
    def ids(**sections: Any) -> set[str]:
        return set(planner.build(["a", "b"], **sections).column("request_id"))

    assert ids(seeds=[1, 2]) == ids(seeds=[2, 1]) == ids(matrix={"seed": [1, 2]})
    assert ids(seeds=[1, 2]) < ids(seeds=[7, 1, 2])


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"seeds": [1, 2], "samples_per_prompt": 4},
            "samples_per_prompt: 4 samples of each prompt, and seeds lists 2 (remove one of the two: each seed is one "
            "sample)",
        ),
        ({"seeds": [1, 2], "matrix": {"seed": [3]}}, "seeds: matrix.seed gives seeds too (keep one of the two)"),
        ({"seeds": [1, 2, 1]}, "seeds[2]: 1 is there twice"),
        ({"seeds": [1, -1]}, "seeds[1]: -1 is not an integer from 0 to 9223372036854775807"),
    ],
)
def test_seeds_that_contradict_something_are_refused(planner: Planner, sections: Any, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        planner.build(["a"], **sections)

    assert any(line.endswith(problem) for line in caught.value.problems)


def test_seeds_and_a_column_of_seeds_are_refused_together(planner: Planner) -> None:
    with pytest.raises(SpecError, match=r"seeds: the prompts' column 'seed' sets seed too \(take one away, or set"):
        planner.build([{"prompt": "a", "seed": 3}], seeds=[1, 2])
