"""Ticks of a cron expression in a timezone, as Debian's cron counts them.

A job at a fixed time runs once a day whatever the clocks do: what falls into the hour that spring skips runs right
after it, what falls into the hour that autumn repeats runs the first time. A job with a star for minute or hour follows
the hours that pass. A sixth field, in front, is of seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.scheduled_time import find_timezone

NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
#: More than clocks are ever put back.
_CLOCK_CHANGE = timedelta(hours=3)


@dataclass(frozen=True)
class Cron:
    """A cron expression in a timezone; `parse_cron` makes one that is known to tick."""

    expression: str
    timezone: ZoneInfo

    def __str__(self) -> str:
        return f"{self.expression} ({self.timezone.key})"

    @cached_property
    def _fields(self) -> str:
        return NAMES.get(self.expression.lower(), self.expression)

    def after(self, time: datetime) -> Iterator[datetime]:
        """Ticks later than a time, in order, in the timezone."""
        last = time
        for found in CronSim(self._fields, time.astimezone(self.timezone)):
            # Where clocks are put back, a fixed time may come out once more, or earlier than where it started.
            if found.astimezone(UTC) > last.astimezone(UTC):
                yield found
                last = found

    def due(self, since: datetime, now: datetime) -> list[datetime]:
        """Ticks that have come by `now`, later than `since`."""
        return list(takewhile(lambda tick: _instant(tick) <= _instant(now), self.after(since)))

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Ticks from `start` to `end`, both included."""
        return takewhile(lambda tick: _instant(tick) <= _instant(end), self.after(_before(start)))

    def latest(self, now: datetime) -> datetime | None:
        """The latest tick that is due; None where there was none."""
        next_second = now.replace(microsecond=0) + timedelta(seconds=1)
        backwards = CronSim(self._fields, next_second.astimezone(self.timezone), reverse=True)
        near = next(backwards, None)
        if near is None:
            return None
        # Backwards, clock changes are counted differently, so the tick is found forwards.
        return max(self.between(_instant(near) - _CLOCK_CHANGE, now), key=_instant, default=None)


def parse_cron(expression: str, timezone: str = "UTC") -> Cron:
    """A cron expression in a timezone.

    Args:
        expression: Five fields, six with seconds, or `@daily` and its like.
        timezone: A name of the IANA database.

    Raises:
        SpecError: one of both is wrong, or the expression never ticks.
    """
    cron = Cron(" ".join(expression.split()), find_timezone(timezone))
    shown = f'--cron "{cron.expression}"'
    if cron.expression.startswith("@") and cron.expression.lower() not in NAMES:
        raise SpecError(f"{shown}: is unknown (known: {', '.join(NAMES)})")
    try:
        first = next(cron.after(datetime.now(UTC)), None)
    except CronSimError as error:
        said = str(error)
        raise SpecError(
            f"{shown}: {said[:1].lower()}{said[1:]} "
            '(five fields: minute hour day-of-month month day-of-week, as "0 3 * * *")'
        ) from error
    if first is None:
        raise SpecError(f"{shown}: never comes (no such day in the next 50 years)")
    return cron


def _instant(time: datetime) -> datetime:
    # Times of one timezone are compared by their clocks, which is wrong in the hour that is repeated.
    return time.astimezone(UTC)


def _before(time: datetime) -> datetime:
    return _instant(time) - timedelta(seconds=1 if not time.microsecond else 0)
