from __future__ import annotations

from abstractvision_batch.execute.brake import BRAKE_ROWS, Failure
from abstractvision_batch.execute.ray.worker import NOTE_S, NOTES_PER_S, Board


def test_many_workers_note_less_often_so_that_one_board_hears_them_all() -> None:
    board = Board()

    assert board.ask("worker 0", 0).report_interval_s == NOTE_S
    intervals = [board.ask(f"worker {number}", 0).report_interval_s for number in range(10_000)]

    assert 10_000 / intervals[-1] <= NOTES_PER_S
    assert intervals == sorted(intervals)


def test_a_stopped_worker_begins_nothing() -> None:
    board = Board()
    board.stop(["worker 1"])

    assert board.ask("worker 1", 0).is_stopped
    assert not board.ask("worker 2", 0).is_stopped


def test_a_variant_that_ended_is_begun_by_no_worker_and_the_others_are() -> None:
    board = Board()
    board.stop_variant(1)

    assert board.ask("worker 1", 1).is_stopped and board.ask("worker 2", 1).is_stopped
    assert not board.ask("worker 1", 0).is_stopped


def test_a_variant_of_which_everything_fails_stops_without_the_others() -> None:
    board = Board()
    failures = [Failure("invalid_request", "no such model")] * BRAKE_ROWS

    assert "all failed in the same way" in str(board.brake(1, 0, failures)[1])
    assert board.brake(0, 0, failures[1:]) == (False, None)
    assert board.brake(0, 1, []) == (True, None)
