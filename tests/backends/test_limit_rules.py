"""The rules of the limit of requests in flight, one at a time: `test_control_law` shows what they come to."""

from __future__ import annotations

import pytest

from abstractvision_batch.backends.control_law import ControlLaw


def _refuse(law: ControlLaw, *, working_on: int, count: int = 1, pause_s: float = 0.0, **more: float) -> float:
    return law.refused(count, working_on=working_on, pause_s=pause_s, **{"took_s": 0.1, "now": 0.0, **more})


def _answer(law: ControlLaw, count: int = 1, *, now: float = 1000.0, **more: float) -> None:
    law.answered(count, epoch=int(more.get("epoch", law.epoch)), sent_s=more.get("sent_s", 0.0), wanted=True, now=now)


@pytest.mark.parametrize(("maximum", "limit"), [(4, 4), (16, 16), (100, 16)])
def test_it_begins_with_sixteen_or_with_its_maximum(maximum: int, limit: int) -> None:
    law = ControlLaw(maximum)

    assert (law.limit, law.epoch, law.refusing) == (limit, 0, 0)


@pytest.mark.parametrize(
    ("count", "working_on", "limit"), [(1, 8, 8), (4, 15, 12), (16, 1, 1), (16, 0, 1), (1, 20, 15)]
)
def test_a_refusal_lowers_it_to_what_the_endpoint_works_on_and_to_one_at_least(
    count: int, working_on: int, limit: int
) -> None:
    law = ControlLaw(64)

    pause_s = _refuse(law, count=count, working_on=working_on)

    assert (law.limit, law.epoch) == (limit, 1)
    assert pause_s == (0.0 if working_on else 0.5)


def test_an_endpoint_that_refuses_all_is_left_alone_twice_as_long_each_time() -> None:
    law = ControlLaw(64)

    pauses = [_refuse(law, working_on=0, now=float(now)) for now in range(10, 18)]

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert (law.refusing, law.refusing_since) == (8, 10.0)
    assert _refuse(law, working_on=0, pause_s=7.0) == 7.0  # as it asks


def test_an_answer_ends_a_row_of_refusals_and_no_answer_does_not() -> None:
    law = ControlLaw(64)
    _refuse(law, working_on=0, now=10.0)

    _answer(law, 0, now=11.0)
    assert law.refusing == 1
    _answer(law, 1, now=11.0)
    assert law.refusing == 0

    assert _refuse(law, working_on=0, now=12.0) == 0.5
    assert law.refusing_since == 12.0


def test_it_grows_by_three_times_the_last_step_as_long_as_answers_come() -> None:
    law = ControlLaw(1000)

    limits = []
    for _ in range(3):
        _answer(law)
        limits.append(law.limit)

    assert limits == [16 + 48, 64 + 144, 208 + 432]
    assert law.epoch == 3
    _answer(law)
    _answer(law)
    assert (law.limit, law.epoch) == (1000, 4)


def test_answers_prove_nothing_where_nobody_waits_or_where_they_are_of_before() -> None:
    law = ControlLaw(1000)
    _answer(law)

    _answer(law, epoch=0, sent_s=3600.0)  # nothing was refused yet, so silence says nothing
    law.answered(9, epoch=law.epoch, sent_s=0.0, wanted=False, now=0.0)

    assert (law.limit, law.epoch) == (64, 1)


def test_after_a_question_was_refused_the_next_is_for_one_more_two_rounds_later() -> None:
    law = ControlLaw(1000)
    _refuse(law, working_on=10)

    _answer(law, 31)
    assert law.limit == 10
    _answer(law, 1)
    assert law.limit == 11
    _answer(law)
    assert law.limit == 14
    _answer(law)
    assert law.limit == 23


def test_after_a_refusal_that_nothing_asked_for_eight_answers_are_enough() -> None:
    law = ControlLaw(1000)
    _refuse(law, working_on=10)
    _refuse(law, working_on=9)

    _answer(law, 7)
    assert law.limit == 9
    _answer(law, 1)
    assert law.limit == 10


def test_answers_of_before_a_refusal_do_not_count_towards_the_next_question() -> None:
    law = ControlLaw(1000)
    _refuse(law, working_on=10)
    _answer(law, 31)
    _refuse(law, working_on=9)

    _answer(law, 7)

    assert law.limit == 9


@pytest.mark.parametrize(
    ("refusals_took_s", "consent_after_s"), [([0.1], 0.3), ([0.001], 0.02), ([1.0, 0.1], 2.7), ([0.1, 1.0], 3.0)]
)
def test_three_times_as_long_as_a_refusal_takes_without_one_is_consent(
    refusals_took_s: list[float], consent_after_s: float
) -> None:
    law = ControlLaw(1000)
    for took_s in refusals_took_s:
        _refuse(law, working_on=10, took_s=took_s)
    _answer(law, 100)
    assert law.limit in (10, 11)

    _answer(law, 0, epoch=0, sent_s=0.99 * consent_after_s)
    asked = law.limit
    _answer(law, 0, epoch=0, sent_s=1.01 * consent_after_s)

    assert law.limit == asked + 3


def test_a_question_that_cost_a_pause_is_asked_again_twenty_pauses_later() -> None:
    law = ControlLaw(1000)

    assert _refuse(law, working_on=10, pause_s=2.0, now=100.0) == 2.0
    _answer(law, 100, now=139.0)
    assert law.limit == 10
    _answer(law, 0, now=140.0)
    assert law.limit == 11


def test_the_shortest_silence_that_is_consent_is_exactly_that_long() -> None:
    law = ControlLaw(1000)
    _refuse(law, working_on=10, took_s=0.001)
    _answer(law, 32)

    _answer(law, 0, epoch=0, sent_s=0.02)

    assert law.limit == 14
