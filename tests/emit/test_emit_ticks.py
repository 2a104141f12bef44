"""A schedule is the same one in the words of every scheduler."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abstractvision_batch.emit.ticks import minutes_apart, on_calendar, read_ticks
from abstractvision_batch.errors import SpecError
from abstractvision_batch.schedule.cron import parse_cron

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
WORDS = {"1": "jan", "5": "MAY", "12": "Dec"}


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    ends = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    span = ends.map(lambda pair: f"{pair[0]}-{pair[1]}")
    step = st.integers(1, 9).map(lambda every: f"/{every}")
    part = st.one_of(number, span, st.builds("".join, st.tuples(st.one_of(number, span), step)))
    return st.one_of(
        st.just("*"),
        step.map(lambda every: f"*{every}"),
        st.lists(part, min_size=1, max_size=3).map(",".join),
    )


CRONS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 28), _field(1, 12), _field(0, 7)).map(" ".join)


@given(CRONS)
@settings(max_examples=60, deadline=None)
def test_a_schedule_written_for_all_is_the_one_that_was_given(cron: str) -> None:
    start = datetime(2026, 2, 27, 22, 30, tzinfo=UTC)

    written = read_ticks(cron, "UTC").cron

    assert list(islice(parse_cron(written).after(start), 8)) == list(islice(parse_cron(cron).after(start), 8))
    assert re.fullmatch(r"[0-9*,/ -]+", written)
    assert "7" not in re.sub(r"/[0-9]+", "", written.split()[4])
    assert not re.search(r"(^|[ ,])[0-9]+/", written)


@pytest.mark.parametrize(
    ("cron", "written"),
    [
        ("0 3 * * *", "0 3 * * *"),
        ("*/15 9-17 * * MON-fri", "*/15 9-17 * * 1,2,3,4,5"),
        ("5/20 0 1 jan 7", "5,25,45 0 1 1 0"),
        ("@weekly", "0 0 * * 0"),
    ],
)
def test_what_some_schedulers_do_not_read_is_written_as_numbers(cron: str, written: str) -> None:
    assert read_ticks(cron, "UTC").cron == written


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 3 L * *", "UTC", "do not know L and #"),
        ("0 3 * * MON#1", "UTC", "do not know L and #"),
        ("0 0 3 * * *", "UTC", "has seconds"),
        ("0 0 */2,5 * 1", "UTC", "such a day beside a weekday"),
        ("0 25 * * *", "UTC", "bad hour"),
        ("0 3 * * *", "Europe/Berlim", "did you mean Europe/Berlin?"),
    ],
)
def test_what_no_other_scheduler_would_understand_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        read_ticks(cron, zone)


def test_the_least_distance_of_ticks_goes_over_the_hour() -> None:
    assert minutes_apart(read_ticks("*/15 * * * *", "UTC")) == 15
    assert minutes_apart(read_ticks("0,58 * * * *", "UTC")) == 2
    assert minutes_apart(read_ticks("0 3 * * *", "UTC")) == 60


def _elapses(calendar: str, start: datetime, count: int) -> list[datetime]:
    """The next times at which systemd would start a timer."""
    base = start.strftime("%Y-%m-%d %H:%M:%S UTC")
    command = ["systemd-analyze", "calendar", f"--base-time={base}", f"--iterations={count}", calendar]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"}
    )
    found = re.findall(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC", done.stdout)
    return [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in found]


@pytest.mark.sampled(2)
@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd is not installed (apt-get install systemd)")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata"])
@given(cron=CRONS)
@settings(max_examples=25, deadline=None)
def test_systemd_starts_the_timer_when_cron_would(zone: str, cron: str) -> None:
    """From May on, so that no clock changes before the eighth tick of all but the rarest schedules."""
    start = datetime(2026, 5, 1, 12, 7, tzinfo=UTC)
    end = start + timedelta(days=120)

    calendar = on_calendar(read_ticks(cron, zone))

    found = sorted({time for line in calendar for time in _elapses(line, start, 8)})
    wanted = [tick.astimezone(UTC) for tick in islice(parse_cron(cron, zone).after(start), 8)]
    assert [time for time in found if time < end][:8] == [time for time in wanted if time < end]
