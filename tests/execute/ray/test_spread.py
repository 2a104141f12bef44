"""Which variant a worker without work takes, for made-up pools."""

from __future__ import annotations

import pytest

from abstractvision_batch.execute.ray.spread import choose_variant


@pytest.mark.parametrize(
    ("waiting", "workers", "chosen"),
    [
        ([9, 9, 9], [0, 0, 0], 0),
        ([9, 9, 9], [1, 0, 0], 1),
        ([1, 99], [0, 5], 0),
        ([30, 10], [1, 1], 0),
        ([30, 10], [4, 1], 1),
        ([0, 3], [2, 7], 1),
        ([0, 0], [1, 0], None),
    ],
)
def test_a_worker_goes_where_most_is_left_for_each_and_first_where_nobody_is(
    waiting: list[int], workers: list[int], chosen: int | None
) -> None:
    assert choose_variant(waiting, workers, [0] * len(waiting)) == chosen


def test_no_more_workers_load_a_model_than_will_have_something_to_do() -> None:
    assert choose_variant([1, 2], [1, 2], loading=[1, 1]) == 1
    assert choose_variant([1, 2], [1, 3], loading=[1, 2]) is None


def test_workers_that_come_together_are_spread_by_the_work_that_is_left() -> None:
    waiting, workers = [60, 30, 10], [0, 0, 0]
    for _ in range(10):
        chosen = choose_variant(waiting, workers, workers)
        assert chosen is not None
        workers[chosen] += 1

    assert workers == [6, 3, 1]
