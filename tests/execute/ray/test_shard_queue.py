from __future__ import annotations

from abstractvision_batch.execute.ray.shard_queue import LONE_REQUEST_DEATHS, ShardQueue, Work
from abstractvision_batch.runs.columns import RowResult

BATCHES: dict[int, list[tuple[int, ...]]] = {0: [(0, 1), (2, 3)], 1: [(4, 5), (6, 7)]}


def _queue() -> ShardQueue:
    return ShardQueue([[0, 1]], split=lambda shard: BATCHES[shard])


def _ok(work: Work) -> dict[int, RowResult]:
    return {index: RowResult(status="ok") for index in work.indexes}


def test_shards_come_out_in_order() -> None:
    queue = _queue()
    assert [queue.pop(0), queue.pop(0)] == [Work(0), Work(1)]
    assert len(queue) == 0


def test_work_that_never_began_is_run_first_and_costs_nothing() -> None:
    queue = _queue()
    first = queue.pop(0)
    queue.put_back(first)
    assert queue.pop(0) == first


def test_one_death_puts_the_whole_shard_back() -> None:
    queue = _queue()
    assert queue.worker_died(queue.pop(0)) is None
    assert [queue.pop(0), queue.pop(0)] == [Work(1), Work(0)]


def test_two_deaths_cut_the_shard_into_its_batches() -> None:
    queue = _queue()
    work = queue.pop(0)
    queue.worker_died(work)
    queue.worker_died(work)

    assert [queue.pop(0) for _ in range(4)] == [Work(1), Work(0), Work(0, (0, 1)), Work(0, (2, 3))]


def test_a_poison_request_is_one_failed_row_and_its_neighbours_are_kept() -> None:
    """Request 2 kills whatever worker runs it."""
    queue = ShardQueue([[0]], split=lambda shard: BATCHES[shard])
    deaths, finished = 0, None
    while len(queue):
        work = queue.pop(0)
        if not work.indexes or 2 in work.indexes:
            deaths += 1
            finished = queue.worker_died(work)
        else:
            finished = queue.piece_done(work, _ok(work))

    assert finished is not None
    assert {index: row.status for index, row in finished.items()} == {0: "ok", 1: "ok", 2: "failed", 3: "ok"}
    assert finished[2].error_kind == "worker_crashed"
    assert deaths == 2 + 1 + LONE_REQUEST_DEATHS


def test_results_of_pieces_are_handed_out_once_all_are_there() -> None:
    queue = ShardQueue([[1]], split=lambda shard: BATCHES[shard])
    work = queue.pop(0)
    queue.worker_died(work)
    queue.worker_died(queue.pop(0))
    first, second = queue.pop(0), queue.pop(0)

    assert queue.piece_done(second, _ok(second)) is None
    results = queue.piece_done(first, _ok(first))

    assert results is not None
    assert sorted(results) == [4, 5, 6, 7]


def test_each_variant_has_its_own_work_and_one_that_ended_has_none() -> None:
    queue = ShardQueue([[0, 1], [2]], split=lambda shard: BATCHES[shard])
    begun = queue.pop(0)

    assert (queue.waiting, queue.pop(1)) == ([1, 1], Work(2, variant=1))
    queue.end(0)
    queue.put_back(begun)
    assert (queue.waiting, len(queue)) == ([0, 0], 0)
