"""`schedule`: make a run for every tick of a cron expression, in the foreground."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import SpecArgument, check_choice
from abstractvision_batch.cli.output import one_line, print_json, print_notes
from abstractvision_batch.cli.spec_options import SpecOptions

if TYPE_CHECKING:
    from abstractvision_batch.schedule.scheduler import ScheduleEvent


def schedule(
    spec: SpecArgument,
    given: SpecOptions,
    cron: Annotated[
        str,
        typer.Option(
            "--cron",
            metavar="FIELDS",
            help='When ticks are due, as "0 3 * * *"; a sixth field in front is of seconds.',
            show_default=False,
        ),
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="NAME", help="Of --cron and of time fields, as Europe/Berlin.")
    ] = "UTC",
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="What became of each tick (SPEC with .schedule.json)."),
    ] = None,
    catch_up: Annotated[
        str,
        typer.Option(
            "--catch-up",
            metavar="none|last|all",
            help="Which ticks are made that were missed while no scheduler ran; one that began is always finished.",
        ),
    ] = "last",
    max_running: Annotated[
        int, typer.Option("--max-running", min=1, metavar="N", help="Runs at a time; further ticks wait their turn.")
    ] = 1,
    jitter_s: Annotated[
        float, typer.Option("--jitter-s", min=0.0, metavar="S", help="Start each tick up to so many seconds later.")
    ] = 0.0,
    retries: Annotated[
        int, typer.Option("--retries", min=0, metavar="N", help="How often a tick that broke off is resumed.")
    ] = 3,
    retry_wait_s: Annotated[
        float, typer.Option("--retry-wait-s", min=0.0, metavar="S", help="Before the first retry; doubled for each.")
    ] = 30.0,
    ticks: Annotated[
        int | None, typer.Option("--ticks", min=1, metavar="N", help="End after so many ticks.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each event on stdout instead of text on stderr.")
    ] = False,
) -> None:
    """Make a run for every tick of a cron expression, until Ctrl-C; the same command goes on where it was.

    The spec says with {{ scheduled_at }} or {{ date }} where each tick's run goes, so none is made twice.
    """
    from abstractvision_batch.schedule.schedule import schedule as run_schedule
    from abstractvision_batch.schedule.scheduler import CATCH_UPS, ScheduleOptions

    check_choice("--catch-up", catch_up, CATCH_UPS)
    options = ScheduleOptions(
        catch_up=next(choice for choice in CATCH_UPS if choice == catch_up),
        max_running=max_running,
        jitter_s=jitter_s,
        retries=retries,
        retry_wait_s=retry_wait_s,
        ticks=ticks,
    )
    code = run_schedule(
        given.given(spec),
        cron,
        timezone=timezone,
        state=state,
        options=options,
        on_event=_print_json if as_json else _print_line,
    )
    raise typer.Exit(code)


def _print_line(event: ScheduleEvent) -> None:
    tick = "" if event.tick is None else f"{event.tick}  "
    state = "" if event.event in ("waiting", "stopping", "stopped") else f"{event.event}: "
    print_notes(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {tick}{state}{one_line(event.said)}")


def _print_json(event: ScheduleEvent) -> None:
    import sys

    print_json({"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), **event.to_json()})
    sys.stdout.flush()
