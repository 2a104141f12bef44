"""How a limit is shared out: never more than there is, as much as anyone, and by turns where it does not divide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.backends.shared_limit import LEASE_S, Report, SharedLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def permits(limit: SharedLimit, worker: str, *, in_flight: int = 0, waiting: int = 0) -> int:
    return limit.exchange(Report(worker, in_flight=in_flight, waiting=waiting)).permits


def test_those_who_want_little_get_it_and_the_others_share_the_rest() -> None:
    limit = SharedLimit(12)
    wants = {"little": 2, "much": 50, "more": 90}
    for _ in range(4):  # what was granted to the first comes back report by report
        found = {
            worker: permits(limit, worker, in_flight=0, waiting=wants[worker]) for worker in ("much", "more", "little")
        }

    assert found == {"little": 2, "much": 5, "more": 5}


def test_what_a_worker_still_has_in_flight_is_not_granted_to_another() -> None:
    limit = SharedLimit(8)
    assert permits(limit, "first", waiting=20) == 8

    assert permits(limit, "second", waiting=20) == 0
    assert permits(limit, "first", in_flight=8, waiting=12) == 4
    assert permits(limit, "second", waiting=20) == 0
    assert permits(limit, "first", in_flight=6, waiting=12) == 4
    assert permits(limit, "second", waiting=20) == 2
    assert permits(limit, "first", in_flight=4, waiting=12) == 4
    assert permits(limit, "second", in_flight=2, waiting=18) == 4


def test_one_permit_goes_round_among_more_workers() -> None:
    limit = SharedLimit(1)
    busy: dict[str, int] = {}
    in_flight = dict.fromkeys("abc", 0)
    for _ in range(600):
        for worker in "abc":
            answered, in_flight[worker] = in_flight[worker], 0
            report = Report(worker, in_flight=0, waiting=5, answered=answered, latency_s=0.1)
            in_flight[worker] = limit.exchange(report).permits
            busy[worker] = busy.get(worker, 0) + in_flight[worker]
        assert sum(in_flight.values()) <= 1

    assert min(busy.values()) > 0.2 * sum(busy.values())


def test_a_silent_worker_s_permits_come_back_with_its_lease_and_a_dead_one_s_at_once() -> None:
    clock = Clock()
    limit = SharedLimit(4, clock=clock)
    permits(limit, "silent", waiting=4)
    assert permits(limit, "other", waiting=4) == 0

    clock.now += LEASE_S + 1
    assert permits(limit, "other", waiting=4) == 4
    limit.drop("other")
    assert permits(limit, "third", waiting=4) == 4


def test_a_new_limit_counts_what_workers_of_an_old_one_have_in_flight() -> None:
    limit = SharedLimit(8)

    assert permits(limit, "first", in_flight=5, waiting=3) == 8
    assert permits(limit, "second", in_flight=3, waiting=5) == 0


def test_a_worker_with_nothing_to_do_holds_nothing() -> None:
    limit = SharedLimit(4)
    permits(limit, "first", waiting=4)
    permits(limit, "first")

    assert permits(limit, "second", waiting=4) == 4


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_workers_that_keep_to_their_grants_never_have_more_in_flight_than_the_limit(
    maximum: int, events: list[tuple[str, int, float]]
) -> None:
    """Each report comes after some of the worker's requests ended, and its answer is used up at once."""
    limit = SharedLimit(min(maximum, 16))
    in_flight = dict.fromkeys("abcd", 0)
    for worker, waiting, ended in events:
        in_flight[worker] -= int(in_flight[worker] * ended)
        granted = permits(limit, worker, in_flight=in_flight[worker], waiting=waiting)
        in_flight[worker] = max(in_flight[worker], min(granted, in_flight[worker] + waiting))
        assert sum(in_flight.values()) <= limit.law.limit
