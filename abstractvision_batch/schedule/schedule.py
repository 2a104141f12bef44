"""`avbatch schedule`: makes a run for every tick of a cron expression, each of them once.

    clock → ticks that are due → state file → a process for each → how it ended → state file

A tick is written down before its process starts, and its run is (spec, scheduled time); so whatever dies, the same
command goes on: a process that outlived the scheduler is waited for, and a run that did not end is resumed.

Not covered: ticks of before the schedule began, or that it skipped (`backfill`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from abstractvision_batch.job.load import GivenSpec, load_job
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.schedule.outputs import read_timed_spec, sample_ticks
from abstractvision_batch.schedule.scheduler import ScheduleEvent, ScheduleOptions, Scheduler
from abstractvision_batch.schedule.state import open_state, state_path
from abstractvision_batch.schedule.stop_signal import StopSignal


def schedule(
    spec: str | Path | GivenSpec,
    cron: str,
    *,
    timezone: str = "UTC",
    state: str | Path | None = None,
    options: ScheduleOptions | None = None,
    on_event: Callable[[ScheduleEvent], object] = lambda event: None,
) -> int:
    """Make the runs of a schedule until it is told to stop.

    Args:
        spec: Path of a YAML file with time fields in `output.path`, or how it was given; read again for each tick.
        cron: When ticks are due.
        timezone: Of the cron expression and of the spec's time fields.
        state: Path of the state file; by default beside the spec.
        options: How ticks become runs.
        on_event: Called with everything that happens.

    Returns:
        130 where it was told to stop, else, after `options.ticks`, the highest exit code of their runs.

    Raises:
        SpecError: the spec, cron expression or timezone is wrong, two ticks would share a folder, or the state file is
            of another schedule or of a scheduler that runs.
        StorageError: the state file cannot be written; the same command goes on.
    """
    now, parsed = datetime.now(UTC), parse_cron(cron, timezone)
    given = GivenSpec.of(spec)
    read_timed_spec(given).require_distinct(sample_ticks(parsed, now))
    load_job(given, scheduled_at=next(parsed.after(now)))
    path = Path(state) if state is not None else state_path(given.file)
    with (
        open_state(path.absolute(), given.file.resolve(), parsed, now) as opened,
        StopSignal() as stop_signal,
    ):
        return Scheduler(opened, given, options or ScheduleOptions(), stop_signal, on_event).run()
