from __future__ import annotations

from abstractvision_batch.execute.ray.worker import NOTE_S, NOTES_PER_S, Board


def test_many_workers_note_less_often_so_that_one_board_hears_them_all() -> None:
    board = Board()

    assert board.ask("worker 0").report_interval_s == NOTE_S
    intervals = [board.ask(f"worker {number}").report_interval_s for number in range(10_000)]

    assert 10_000 / intervals[-1] <= NOTES_PER_S
    assert intervals == sorted(intervals)


def test_a_stopped_worker_begins_nothing() -> None:
    board = Board()
    board.stop(["worker 1"])

    assert board.ask("worker 1").is_stopped
    assert not board.ask("worker 2").is_stopped
