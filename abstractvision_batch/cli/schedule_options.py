"""Options that say for which scheduled time a spec is meant, and loading it for that time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from abstractvision_batch.job.load import LoadedSpec

AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="TIME", help="The scheduled time that {{ scheduled_at }} stands for, as 2026-11-21T03:00Z."
    ),
]
CronOption = Annotated[
    str | None,
    typer.Option(
        "--cron",
        metavar="FIELDS",
        help='In place of --at: the latest time that is due of a schedule, as "0 3 * * *".',
    ),
]
TimezoneOption = Annotated[
    str, typer.Option("--timezone", metavar="NAME", help="Of --cron, --at and time fields, as Europe/Berlin.")
]


def load_at(
    spec: str,
    overrides: list[str] | None,
    registry: list[str] | None,
    *,
    at: str | None,
    cron: str | None,
    timezone: str,
) -> LoadedSpec:
    """The spec for a scheduled time: `at`, or the latest tick of `cron`, or none."""
    from abstractvision_batch.job.load import load_spec

    time = scheduled_time(spec, overrides, at=at, cron=cron, timezone=timezone)
    return load_spec(spec, overrides=overrides or (), registry_paths=registry or (), scheduled_at=time)


def scheduled_time(
    spec: str, overrides: list[str] | None, *, at: str | None, cron: str | None, timezone: str
) -> datetime | None:
    """The scheduled time that the options say; None where they say none.

    A spec whose `output.path` is the same for two ticks of `cron` is refused.
    """
    if at is not None and cron is not None:
        raise typer.BadParameter("says the scheduled time, and so does --cron (leave one out)", param_hint="--at")
    if at is not None:
        from abstractvision_batch.job.scheduled_time import find_timezone, parse_time

        return parse_time(at, find_timezone(timezone))
    if cron is None:
        if timezone != "UTC":
            raise typer.BadParameter("is of --cron or --at, and neither is given", param_hint="--timezone")
        return None
    from abstractvision_batch.schedule.cron import parse_cron
    from abstractvision_batch.schedule.outputs import read_timed_spec, sample_ticks

    now = datetime.now(UTC)
    parsed = parse_cron(cron, timezone)
    read_timed_spec(spec, overrides or ()).require_distinct(sample_ticks(parsed, now))
    due = parsed.latest(now)
    if due is None:
        raise typer.BadParameter(f"{cron}: has not come once in 50 years", param_hint="--cron")
    return due
