"""`avbatch backfill`: makes the runs of past ticks that are missing, oldest first.

    from, to → ticks → the run of each on its storage → those that are not complete → a process for each

Which ticks there are follows from a cron expression, or from the finest time field of `output.path`: a day's partition
has its tick at midnight. Interrupted, the same command goes on.

Not covered: ticks to come (`schedule`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import ClassVar, Literal

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec, load_job
from abstractvision_batch.job.scheduled_time import parse_time, tick_key
from abstractvision_batch.runs.listing import RunState, read_run_state
from abstractvision_batch.schedule.cron import Cron, parse_cron
from abstractvision_batch.schedule.outputs import read_timed_spec
from abstractvision_batch.schedule.stop_signal import StopSignal
from abstractvision_batch.schedule.tick_process import TickProcess, start_tick
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.scratch import scratch_folder

INTERRUPTED = 130
#: More ticks than one command makes.
MAX_TICKS = 10_000

#: What backfill did with a partition: `skipped` was complete before, `succeeded` is complete now, whatever became of
#: its rows, `pending` was not started.
Action = Literal["skipped", "pending", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A tick of the range, its run, and what was done."""

    scheduled_at: datetime
    path: str
    found: RunState
    """As it was before."""
    action: Action
    exit_code: int | None = None
    said: str | None = None

    also_json: ClassVar[tuple[str, ...]] = ("tick",)

    @property
    def tick(self) -> str:
        """The tick in the text that schedules and runs name it by."""
        return tick_key(self.scheduled_at)


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill found and did."""

    partitions: tuple[Partition, ...]
    """Oldest first."""
    not_due: int
    """Ticks of the range that are still to come."""
    interrupted: bool = False

    also_json: ClassVar[tuple[str, ...]] = ("exit_code",)

    @property
    def exit_code(self) -> int:
        """130 where it was interrupted, else that of the worst partition; 0 where it only looked."""
        if self.interrupted:
            return INTERRUPTED
        if any(partition.action == "pending" for partition in self.partitions):
            return 0
        return max((partition.exit_code or 0 for partition in self.partitions), default=0)


def backfill(
    spec: str | Path | GivenSpec,
    start: str,
    end: str,
    *,
    cron: str | None = None,
    timezone: str = "UTC",
    max_running: int = 1,
    dry_run: bool = False,
    on_partition: Callable[[Partition], object] = lambda partition: None,
) -> BackfillReport:
    """Make the runs of a range of ticks that are not complete on their storage.

    Args:
        spec: Path of a YAML file with time fields in `output.path`, or how it was given.
        start: The first tick, or a day: ISO 8601, in the timezone where it says none.
        end: The last tick, included; of a day, all of it is.
        cron: When ticks were due; by default, what `output.path` is partitioned by.
        timezone: Of all of them, and of the spec's time fields.
        max_running: Runs at a time.
        dry_run: Only look.
        on_partition: Called with each partition when it is decided: skipped, succeeded or failed.

    Raises:
        SpecError: the spec, the range or the cron expression is wrong, or two ticks would share a folder.
        StorageError: a run's storage cannot be read.
    """
    given = GivenSpec.of(spec)
    timed = read_timed_spec(given)
    parsed = parse_cron(cron if cron is not None else timed.cron_of_partitions(), timezone)
    due, not_due = find_ticks(parsed, start, end, datetime.now(UTC))
    timed.require_distinct(due)
    found = [look for _, look in map_in_flight(due, lambda tick: _look(given, tick))]
    if dry_run:
        return BackfillReport(tuple(found), not_due)
    with scratch_folder() as folder, StopSignal() as stop_signal:
        made = _make(found, given, folder, stop_signal, max_running, on_partition)
        return BackfillReport(tuple(made), not_due, interrupted=stop_signal.stop_requests > 0)


def find_ticks(cron: Cron, start: str, end: str, now: datetime) -> tuple[list[datetime], int]:
    """Ticks of a range that are due, and how many of it are not.

    Raises:
        SpecError: the range is wrong, has no tick, or has too many.
    """
    first = parse_time(start, cron.timezone, "--from")
    last = parse_time(end, cron.timezone, "--to")
    if _is_day(end):
        last = datetime.combine(last.date() + timedelta(days=1), time(), cron.timezone).astimezone(UTC)
        last -= timedelta(microseconds=1)
    if last.astimezone(UTC) < first.astimezone(UTC):
        raise SpecError(f"--from {start}: is later than --to {end} (exchange them)")
    ticks: list[datetime] = []
    for tick in cron.between(first, last):
        ticks.append(tick)
        if len(ticks) > MAX_TICKS:
            raise SpecError(f"--from {start}: more than {MAX_TICKS:,} ticks to --to {end} (choose a shorter range)")
    if not ticks:
        raise SpecError(f"--from {start}: no tick of {cron} to --to {end} (choose a longer range)")
    due = [tick for tick in ticks if tick.astimezone(UTC) <= now]
    return due, len(ticks) - len(due)


def _look(given: GivenSpec, tick: datetime) -> Partition:
    """The run of a tick as it is on its storage."""
    store = load_job(given, scheduled_at=tick).open_output()
    state = read_run_state(store)
    if not state.done:
        return Partition(tick, store.url, state, "pending")
    return Partition(tick, store.url, state, "skipped", exit_code=1 if state.failed else 0)


def _make(
    found: Sequence[Partition],
    given: GivenSpec,
    folder: Path,
    stop_signal: StopSignal,
    max_running: int,
    on_partition: Callable[[Partition], object],
) -> list[Partition]:
    """Start what is pending, oldest first, and wait for it. Returns all partitions as they are then."""
    partitions = {partition.tick: partition for partition in found}
    waiting = [partition for partition in found if partition.action == "pending"]
    running: list[TickProcess] = []
    passed = 0
    for partition in found:
        if partition.action == "skipped":
            on_partition(partition)
    while running or (waiting and not stop_signal.stop_requests):
        while waiting and len(running) < max_running and not stop_signal.stop_requests:
            process = start_tick(given, waiting.pop(0).scheduled_at, folder)
            assert process is not None, "the folder is this command's own"
            running.append(process)
        for process in tuple(running):
            ending = process.poll()
            if ending is None:
                continue
            running.remove(process)
            done = ending.verdict == "done"
            code = 4 if ending.exit_code is None or ending.exit_code < 0 else ending.exit_code
            partition = replace(
                partitions[tick_key(process.tick)],
                action="succeeded" if done else "failed",
                exit_code=code,
                said=ending.said,
            )
            partitions[tick_key(process.tick)] = partition
            on_partition(partition)
        while passed < stop_signal.stop_requests:
            passed += 1
            for process in running:
                process.terminate()
        if running:
            stop_signal.wait(10.0)
    return list(partitions.values())


def _is_day(text: str) -> bool:
    """Whether ISO 8601 text says no time of day."""
    return "T" not in text and ":" not in text and " " not in text.strip()
