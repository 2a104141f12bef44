"""The time for which a run was scheduled, as text of a spec names it.

`str()` of it is the same instant everywhere: UTC, to the minute, safe in a path (``2026-11-21T0300Z``; seconds follow
where there are any). Its other fields are those of its timezone, which people partition by.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from abstractvision_batch.errors import SpecError
from abstractvision_batch.text.suggestions import hint_for

#: Names of a template, coarsest first, and for which period the value stands.
PERIODS = {
    "year": "year",
    "month": "month",
    "week": "week",
    "day": "day",
    "date": "day",
    "hour": "hour",
    "minute": "minute",
    "epoch_s": "instant",
    "scheduled_at": "instant",
}
#: Lengths of a period, shortest first.
FINENESS = ("instant", "minute", "hour", "day", "week", "month", "year")


@dataclass(frozen=True, slots=True)
class ScheduledTime:
    """What `scheduled_at` is in a spec.

    Args:
        time: Aware; its timezone is that of the fields.
    """

    time: datetime

    def __str__(self) -> str:
        return tick_key(self.time)

    @property
    def date(self) -> str:
        """``2026-11-21``."""
        return self.time.strftime("%Y-%m-%d")

    @property
    def year(self) -> str:
        """``2026``."""
        return self.time.strftime("%Y")

    @property
    def month(self) -> str:
        """``11``."""
        return self.time.strftime("%m")

    @property
    def week(self) -> str:
        """ISO week with its year, ``2026-W47``."""
        return self.time.strftime("%G-W%V")

    @property
    def day(self) -> str:
        """``21``."""
        return self.time.strftime("%d")

    @property
    def hour(self) -> str:
        """``03``."""
        return self.time.strftime("%H")

    @property
    def minute(self) -> str:
        """``00``."""
        return self.time.strftime("%M")

    @property
    def epoch_s(self) -> int:
        """Seconds since 1970."""
        return int(self.time.timestamp())

    def strftime(self, form: str) -> str:
        """The time in another form, as of Python's `strftime`."""
        return self.time.strftime(form)

    def shift(self, *, days: int = 0, hours: int = 0) -> ScheduledTime:
        """Another time: so many days of the calendar, and then so many hours, later, or earlier where negative."""
        # Arithmetic of aware times is of the wall clock, and forgets which of two equal hours it started from.
        day = self.time + timedelta(days=days) if days else self.time
        return ScheduledTime((day.astimezone(UTC) + timedelta(hours=hours)).astimezone(self.time.tzinfo))

    def fields(self) -> dict[str, Any]:
        """What a template may name."""
        return {name: self if name == "scheduled_at" else getattr(self, name) for name in PERIODS}


def tick_key(time: datetime) -> str:
    """The instant, safe in a path and in a file name: ``2026-11-21T0300Z``."""
    utc = time.astimezone(UTC)
    return utc.strftime("%Y-%m-%dT%H%M%SZ" if utc.second else "%Y-%m-%dT%H%MZ")


def parse_time(text: str, timezone: ZoneInfo, option: str = "--at") -> datetime:
    """The time that ISO 8601 text names, in the timezone; where the text says none, it is of that timezone.

    Args:
        text: ``2026-11-21T03:00Z``, ``2026-11-21 03:00``, ``2026-11-21``, or what ``{{ scheduled_at }}`` printed.
        timezone: Of the result.
        option: What the error message calls it.

    Raises:
        SpecError: it is no time, or one that the timezone's clocks skip.
    """
    try:
        time = datetime.fromisoformat(text.strip()).replace(microsecond=0)
        found = time.replace(tzinfo=timezone) if time.tzinfo is None else time.astimezone(timezone)
        exists = time.tzinfo is not None or found.astimezone(UTC).astimezone(timezone) == found
    except (ValueError, OverflowError) as error:
        raise SpecError(f"{option} {text}: is no time (write ISO 8601, as 2026-11-21T03:00Z or 2026-11-21)") from error
    if not exists:
        raise SpecError(
            f"{option} {text}: the clocks of {timezone.key} skip it (choose another time, or say Z for UTC)"
        )
    return found


def find_timezone(name: str) -> ZoneInfo:
    """A timezone by its name in the IANA database.

    Raises:
        SpecError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of the database, as Europe
        hint = hint_for(name, available_timezones(), "an IANA name, as Europe/Berlin or UTC")
        raise SpecError(f"--timezone {name}: is unknown ({hint})") from error


def timezone_name(time: datetime) -> str | None:
    """The name of its timezone; None where it is only an offset."""
    return time.tzinfo.key if isinstance(time.tzinfo, ZoneInfo) else None
