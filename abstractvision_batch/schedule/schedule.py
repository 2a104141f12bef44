"""`avbatch schedule`: makes a run for every tick of a cron expression, each of them once.

    clock → ticks that are due → state file → a process for each → how it ended → state file

A tick is written down before its process starts, and its run is (spec, scheduled time); so whatever dies, the same
command goes on: a process that outlived the scheduler is waited for, and a run that did not end is resumed.

Not covered: ticks of before the schedule began, or that it skipped (`backfill`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from abstractvision_batch.job.load import load_spec
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.schedule.outputs import read_timed_spec, sample_ticks
from abstractvision_batch.schedule.scheduler import ScheduleEvent, ScheduleOptions, Scheduler
from abstractvision_batch.schedule.state import open_state, state_path
from abstractvision_batch.schedule.stop_signal import StopSignal
from abstractvision_batch.schedule.tick_process import TickCommand


def schedule(
    spec: str | Path,
    cron: str,
    *,
    timezone: str = "UTC",
    state: str | Path | None = None,
    options: ScheduleOptions | None = None,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    on_event: Callable[[ScheduleEvent], object] = lambda event: None,
) -> int:
    """Make the runs of a schedule until it is told to stop.

    Args:
        spec: Path of a YAML file with time fields in `output.path`; read anew for each tick.
        cron: When ticks are due.
        timezone: Of the cron expression and of the spec's time fields.
        state: Path of the state file; by default beside the spec.
        options: How ticks become runs.
        overrides: ``dotted.key=value`` strings, as of ``--set``.
        registry_paths: More folders of model cards.
        on_event: Called with everything that happens.

    Returns:
        130 where it was told to stop, else, after `options.ticks`, the highest exit code of their runs.

    Raises:
        SpecError: the spec, cron expression or timezone is wrong, two ticks would share a folder, or the state file is
            of another schedule or of a scheduler that runs.
        StorageError: the state file cannot be written; the same command goes on.
    """
    now, parsed = datetime.now(UTC), parse_cron(cron, timezone)
    read_timed_spec(spec, overrides).require_distinct(sample_ticks(parsed, now))
    load_spec(spec, overrides=overrides, registry_paths=registry_paths, scheduled_at=next(parsed.after(now)))
    command = TickCommand(str(spec), parsed.timezone.key, tuple(overrides), tuple(map(str, registry_paths)))
    path = Path(state) if state is not None else state_path(spec)
    with (
        open_state(path.absolute(), Path(spec).expanduser().resolve(), parsed, now) as opened,
        StopSignal() as stop_signal,
    ):
        return Scheduler(opened, command, options or ScheduleOptions(), stop_signal, on_event).run()
