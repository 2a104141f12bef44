"""Ticks of cron expressions, above all where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.schedule.cron import parse_cron

BERLIN = ZoneInfo("Europe/Berlin")


def ticks(expression: str, start: datetime, days: int = 1) -> list[str]:
    cron = parse_cron(expression, "Europe/Berlin")
    return [tick.strftime("%d %H:%M%z") for tick in cron.between(start, start + timedelta(days=days))]


def test_a_fixed_time_in_the_hour_that_spring_skips_comes_right_after_it_once() -> None:
    found = ticks("30 2 * * *", datetime(2026, 3, 28, tzinfo=BERLIN), days=3)

    assert found == ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]


def test_a_fixed_time_in_the_hour_that_autumn_repeats_comes_once() -> None:
    found = ticks("30 2 * * *", datetime(2026, 10, 24, tzinfo=BERLIN), days=3)

    assert found == ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"]


@pytest.mark.parametrize("minute", [0, 20, 40, 59])
def test_a_fixed_time_does_not_come_again_for_whom_starts_in_the_repeated_hour(minute: int) -> None:
    inside = datetime(2026, 10, 25, 2, minute, fold=1, tzinfo=BERLIN)

    assert next(parse_cron("30 2 * * *", "Europe/Berlin").after(inside)).strftime("%d %H:%M") == "26 02:30"


def test_an_hourly_job_follows_the_hours_that_pass() -> None:
    spring = ticks("0 * * * *", datetime(2026, 3, 29, 1, tzinfo=BERLIN), days=0) + ticks(
        "0 * * * *", datetime(2026, 3, 29, 3, tzinfo=BERLIN), days=0
    )
    cron = parse_cron("0 * * * *", "Europe/Berlin")
    autumn = list(cron.between(datetime(2026, 10, 25, 1, tzinfo=BERLIN), datetime(2026, 10, 25, 3, tzinfo=BERLIN)))

    assert spring == ["29 01:00+0100", "29 03:00+0200"]
    assert [tick.strftime("%H:%M%z") for tick in autumn] == ["01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100"]
    assert len({tick.astimezone(UTC) for tick in autumn}) == 4


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 * * * *", "*/7 * * * *", "0 0,2,3 * * *", "0 3 * * 1"])
@pytest.mark.parametrize("night", [datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)])
def test_the_latest_tick_that_is_due_is_the_one_that_a_schedule_came_to(expression: str, night: datetime) -> None:
    cron = parse_cron(expression, "Europe/Berlin")
    came = list(cron.between(night - timedelta(days=9), night + timedelta(days=1)))
    for minutes in range(0, 12 * 60, 13):
        now = night + timedelta(minutes=minutes, seconds=minutes % 3)
        due = [tick for tick in came if tick.astimezone(UTC) <= now]
        found = cron.latest(now)
        assert found is not None
        assert found.astimezone(UTC) == due[-1].astimezone(UTC)


@pytest.mark.parametrize("expression", ["0 * * * *", "*/20 * * * *", "30 2 * * *"])
@pytest.mark.parametrize("night", [datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)])
def test_who_looks_again_and_again_sees_each_tick_once_whatever_the_clocks_do(expression: str, night: datetime) -> None:
    """`since` is the last tick that was seen, in its timezone, as a schedule has it."""
    cron = parse_cron(expression, "Europe/Berlin")
    seen: list[datetime] = [next(cron.after(night - timedelta(days=2)))]
    for minutes in range(0, 8 * 60, 7):
        seen += cron.due(seen[-1], night + timedelta(minutes=minutes))

    instants = [tick.astimezone(UTC) for tick in seen]
    assert instants == sorted(set(instants))
    assert instants == [tick.astimezone(UTC) for tick in cron.between(seen[0], seen[-1])]


def test_a_tick_is_due_in_its_very_second() -> None:
    cron = parse_cron("0 3 * * *")
    three = datetime(2026, 11, 21, 3, tzinfo=UTC)

    assert cron.latest(three) == three
    assert cron.latest(three - timedelta(microseconds=1)) == three - timedelta(days=1)
    assert next(cron.after(three)) == three + timedelta(days=1)
    assert list(cron.between(three, three)) == [three]


def test_a_sixth_field_is_of_seconds_and_names_stand_for_expressions() -> None:
    start = datetime(2026, 11, 21, tzinfo=UTC)

    seconds = parse_cron("*/20 * * * * *").between(start, start + timedelta(minutes=1))
    assert [tick.second for tick in seconds] == [0, 20, 40, 0]
    assert next(parse_cron("@monthly").after(start)) == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 3 * * *", 'bad minute (five fields: minute hour day-of-month month day-of-week, as "0 3 * * *")'),
        ("0 3 * *", "wrong number of fields"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 * 2 MON#9", "bad day-of-week"),
        ("@dayly", "is unknown (known: @hourly"),
        ("", "wrong number of fields"),
    ],
)
def test_a_wrong_expression_is_one_line(expression: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_cron(expression)

    assert str(caught.value).startswith(f'--cron "{expression}": {said}')
