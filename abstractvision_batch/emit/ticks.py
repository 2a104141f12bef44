"""When a schedule is due, in the words of each scheduler: cron's five fields as all of them read them, and OnCalendar.

Schedulers agree on numbers, lists, ranges and steps, and on nothing else: Sunday as 7, names and `5/15` are understood
by some, `L` and `#` by few. What some do not understand is written out as numbers, or refused.

Not covered: when exactly a tick falls where a clock is changed. Which tick a run is for is decided by the run itself
(`avbatch run --cron`), so a scheduler that fires late, twice or not at the same minute makes no other run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim

from abstractvision_batch.errors import SpecError
from abstractvision_batch.schedule.cron import NAMES, parse_cron

#: A field that every scheduler reads alike, but for Sunday as 7.
_PORTABLE = re.compile(r"\*(/[0-9]+)?|[0-9]+(-[0-9]+(/[0-9]+)?)?(,[0-9]+(-[0-9]+(/[0-9]+)?)?)*")
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, slots=True)
class Ticks:
    """A schedule: cron's five fields, in numbers, and the time zone whose clock they are of."""

    cron: str
    timezone: str


def read_ticks(cron: str, timezone: str) -> Ticks:
    """A schedule as every scheduler reads it.

    Raises:
        SpecError: it is no schedule, no scheduler but ours would understand it, or there is no such time zone.
    """
    parse_cron(cron, timezone)
    written = NAMES.get(cron.strip().lower(), cron)
    parts = written.upper().split()
    if len(parts) != 5:
        raise SpecError(f'--cron "{cron}": has seconds, which schedulers do not know (five fields, as "0 3 * * *")')
    parsed = _parse(written)
    found: tuple[Iterable[object], ...] = (parsed.minutes, parsed.hours, parsed.days, parsed.months, parsed.weekdays)
    fields = [_write_field(cron, part, values) for part, values in zip(parts, found, strict=True)]
    fields[4] = fields[4] if _has_no_seven(parts[4]) else _join(sorted({day % 7 for day in _numbers(cron, found[4])}))
    if _parse(" ".join(fields)).day_and != parsed.day_and:
        raise SpecError(f'--cron "{cron}": schedulers differ on such a day beside a weekday (write days as numbers)')
    return Ticks(" ".join(fields), timezone)


def on_calendar(ticks: Ticks) -> list[str]:
    """The schedule as systemd's OnCalendar; two of them where cron's day and weekday are alternatives."""
    parsed = _parse(ticks.cron)
    weekdays = {day % 7 for day in _numbers(ticks.cron, parsed.weekdays)}
    days_of_week = (
        "" if len(weekdays) == 7 else ",".join(_WEEKDAYS[day] for day in (1, 2, 3, 4, 5, 6, 0) if day in weekdays)
    )
    days = _calendar_field(_numbers(ticks.cron, parsed.days), range(1, 32))
    months = _calendar_field(_numbers(ticks.cron, parsed.months), range(1, 13))
    hours = _calendar_field(_numbers(ticks.cron, parsed.hours), range(24))
    minutes = _calendar_field(_numbers(ticks.cron, parsed.minutes), range(60))
    time = f"{hours}:{minutes}:00 {ticks.timezone}"
    if parsed.day_and:
        return [" ".join(filter(None, (days_of_week, f"*-{months}-{days}", time)))]
    return [f"*-{months}-{days} {time}", " ".join(filter(None, (days_of_week, f"*-{months}-*", time)))]


def minutes_apart(ticks: Ticks) -> int:
    """Minutes between the two nearest ticks of an hour; 60 where there is one."""
    minutes = _numbers(ticks.cron, _parse(ticks.cron).minutes)
    return min((b - a for a, b in zip(minutes, [*minutes[1:], minutes[0] + 60], strict=True)), default=60)


def _parse(cron: str) -> CronSim:
    return CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))


def _write_field(cron: str, part: str, values: Iterable[object]) -> str:
    return part if _PORTABLE.fullmatch(part) else _join(_numbers(cron, values))


def _has_no_seven(part: str) -> bool:
    """Whether a weekday's field says Sunday as 0, as Kubernetes wants it."""
    return part.startswith("*") or ("7" not in part and _PORTABLE.fullmatch(part) is not None)


def _numbers(cron: str, values: Iterable[object]) -> list[int]:
    items = list(values)
    numbers = sorted(value for value in items if isinstance(value, int) and value >= 0)
    if len(numbers) < len(items):
        raise SpecError(f'--cron "{cron}": other schedulers do not know L and # (write days as numbers)')
    return numbers


def _join(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)


def _calendar_field(numbers: Sequence[int], every: range) -> str:
    """`*`, or two-digit numbers with runs as `09..17`."""
    if set(every) <= set(numbers):
        return "*"
    return ",".join(f"{a:02d}" if a == b else f"{a:02d}..{b:02d}" for a, b in _runs(numbers))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of three or more as their ends, other numbers by themselves."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at < len(numbers) and numbers[at] == numbers[at - 1] + 1:
            continue
        run = numbers[start:at]
        if len(run) >= 3:
            yield run[0], run[-1]
        else:
            yield from ((number, number) for number in run)
        start = at
