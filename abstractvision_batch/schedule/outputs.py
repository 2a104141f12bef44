"""Where the ticks of a schedule write: `output.path` for each, and the check that no two of them share a folder.

A later tick that shared the folder of an earlier one would find its run complete, and nothing would be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec, read_values
from abstractvision_batch.job.scheduled_time import FINENESS, PERIODS, tick_key
from abstractvision_batch.job.time_fields import TimedText, TimeFieldError, find_timed_texts
from abstractvision_batch.schedule.cron import Cron

OUTPUT: FieldPath = ("output", "path")
#: What may be added to a path that is too coarse, the shortest first.
_ADDITIONS = ("{{ date }}", "{{ hour }}", "{{ minute }}", "{{ date }}T{{ hour }}", "{{ scheduled_at }}")
#: One tick of each length of period, as cron has it.
_CRONS = {
    "minute": "* * * * *",
    "hour": "0 * * * *",
    "day": "0 0 * * *",
    "week": "0 0 * * 1",
    "month": "0 0 1 * *",
    "year": "0 0 1 1 *",
}
_FIRST_TICKS = 60
_DAYS_OF_CLOCKS = 370


@dataclass(frozen=True, slots=True)
class TimedSpec:
    """The time fields of a spec file: what schedules and partitions need of it."""

    where: str
    """Place of `output.path`, for messages."""
    output: TimedText
    others: dict[FieldPath, TimedText]

    def require_distinct(self, ticks: Iterable[datetime]) -> None:
        """Refuse ticks of which two would share a folder.

        Raises:
            SpecError: two do, or the path is wrong; the message says which field to add.
        """
        known: dict[str, datetime] = {}
        ticks = list(ticks)
        for tick in ticks:
            before = known.setdefault(self._render(self.output, tick), tick)
            if before.astimezone(UTC) != tick.astimezone(UTC):
                raise SpecError(
                    f"{self.where}: output.path: {tick_key(before)} and {tick_key(tick)} would both write to "
                    f"{self._render(self.output, tick)} (add {self._addition(ticks)} to the path)"
                )

    def cron_of_partitions(self) -> str:
        """The cron expression of what `output.path` is partitioned by: a tick at the start of each day, hour, ...

        Raises:
            SpecError: it names no period, or another field names a shorter one.
        """
        hint = 'say when the ticks are: --cron "0 3 * * *"'
        try:
            periods = {OUTPUT: _finest(self.output), **{path: _finest(text) for path, text in self.others.items()}}
        except TimeFieldError as error:
            raise SpecError(f"{self.where}: output.path: {error}") from error
        own = periods.pop(OUTPUT)
        if own not in _CRONS:
            said = "names no time field" if own is None else "names single ticks"
            raise SpecError(f"{self.where}: output.path: {said}, so the partitions do not follow from it ({hint})")
        for path, period in periods.items():
            if period is not None and FINENESS.index(period) < FINENESS.index(own):
                name = ".".join(map(str, path))
                raise SpecError(
                    f"{self.where}: output.path: is one folder for each {own}, and {name} names a shorter time ({hint})"
                )
        return _CRONS[own]

    def _addition(self, ticks: Sequence[datetime]) -> str:
        for addition in _ADDITIONS:
            text = TimedText(f"{self.output.text}/{addition}")
            if len({self._render(text, tick) for tick in ticks}) == len({tick.astimezone(UTC) for tick in ticks}):
                break
        return addition

    def _render(self, text: TimedText, tick: datetime) -> str:
        try:
            return text.render(tick)
        except TimeFieldError as error:
            raise SpecError(f"{self.where}: output.path: {error}") from error


def read_timed_spec(given: GivenSpec) -> TimedSpec:
    """The time fields of a spec file.

    Raises:
        SpecError: the file cannot be read, or has no `output.path`.
    """
    read = read_values(given)
    where = read.positions.where(OUTPUT)
    texts = find_timed_texts(read.data)
    output = read.data.get("output")
    plain = output.get("path") if isinstance(output, dict) else None
    if not isinstance(plain, str):
        raise SpecError(f"{where}: output.path: is missing (say where the runs go)")
    found = texts.pop(OUTPUT, TimedText(plain))
    return TimedSpec(where, found, texts)


def sample_ticks(cron: Cron, now: datetime) -> Iterator[datetime]:
    """Ticks among which two share a folder if any two do: the next ones, and where calendar and clocks repeat."""
    first = list(islice(cron.after(now), _FIRST_TICKS))
    yield from first
    start = first[0]
    for later in (start + timedelta(days=1), start + timedelta(days=7), _next_month(start), _next_year(start)):
        yield from islice(cron.after(later - timedelta(seconds=1)), 2)
    back = _clocks_put_back(cron, now)
    if back is not None:
        for begin in (back - timedelta(hours=1), back):
            yield from islice(cron.after(begin - timedelta(seconds=1)), _FIRST_TICKS)


def _finest(text: TimedText) -> str | None:
    return min((PERIODS[name] for name in text.names()), key=FINENESS.index, default=None)


def _next_month(time: datetime) -> datetime:
    """The same day of the next month that has it."""
    year, month = time.year, time.month
    while True:
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        try:
            return time.replace(year=year, month=month)
        except ValueError:
            continue


def _next_year(time: datetime) -> datetime:
    try:
        return time.replace(year=time.year + 1)
    except ValueError:  # 29 February
        return time.replace(year=time.year + 4)


def _clocks_put_back(cron: Cron, now: datetime) -> datetime | None:
    """The next moment, in UTC, at which the timezone's clocks are put back; None where they are not."""
    day = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for _ in range(_DAYS_OF_CLOCKS):
        if _offset(cron, day + timedelta(days=1)) < _offset(cron, day):
            hours_of_day = (day + timedelta(hours=number) for number in range(1, 25))
            return next(hour for hour in hours_of_day if _offset(cron, hour) < _offset(cron, day))
        day += timedelta(days=1)
    return None


def _offset(cron: Cron, time: datetime) -> timedelta:
    return time.astimezone(cron.timezone).utcoffset() or timedelta()
