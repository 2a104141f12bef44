"""`backfill`: make the runs of past ticks that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, SpecArgument
from abstractvision_batch.cli.output import one_line, plural, print_json, print_lines, print_notes, print_table
from abstractvision_batch.cli.spec_options import SpecOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from abstractvision_batch.schedule.backfill import BackfillReport, Partition


def backfill(
    spec: SpecArgument,
    given: SpecOptions,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="TIME", help="First tick or day, as 2026-11-01 or 2026-11-01T03:00Z.", show_default=False
        ),
    ],
    end: Annotated[
        str,
        typer.Option("--to", metavar="TIME", help="Last tick or day, included with all of it.", show_default=False),
    ],
    cron: Annotated[
        str | None,
        typer.Option(
            "--cron",
            metavar="FIELDS",
            help="When ticks were due; by default at the start of each day, hour or so that output.path names.",
            show_default=False,
        ),
    ] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="NAME", help="Of --cron, the range and time fields, as Europe/Berlin.")
    ] = "UTC",
    max_running: Annotated[int, typer.Option("--max-running", min=1, metavar="N", help="Runs at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which partitions are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the missing partitions of a range, oldest first; those that are complete are skipped.

    The same command again goes on, and does nothing once all are complete.
    """
    from abstractvision_batch.schedule.backfill import backfill as make_missing

    report = make_missing(
        given.given(spec),
        start,
        end,
        cron=cron,
        timezone=timezone,
        max_running=max_running,
        dry_run=dry_run,
        on_partition=_print_note,
    )
    if as_json:
        print_json({"ok": report.exit_code == 0, **to_json(report)})
    else:
        _print_report(report)
    raise typer.Exit(report.exit_code)


def _print_note(partition: Partition) -> None:
    if partition.action != "skipped":
        print_notes(f"{partition.tick}  {partition.action}: {one_line(partition.said)}")


def _print_report(report: BackfillReport) -> None:

    rows = [
        [partition.tick, _describe_found(partition), partition.action, partition.exit_code, partition.path]
        for partition in report.partitions
    ]
    if rows:
        print_table(["TICK", "WAS", "NOW", "EXIT", "RUN"], rows)
    actions = [partition.action for partition in report.partitions]
    counts = [f"{actions.count(action):,} {action}" for action in ("skipped", "succeeded", "pending", "failed")]
    said = ", ".join(text for text in counts if not text.startswith("0 "))
    print_lines(*([""] if rows else []), f"{plural(len(rows), 'partition')}{': ' if said else ''}{said}")
    if report.not_due:
        print_lines(f"{plural(report.not_due, 'tick')} of the range are still to come")
    if report.interrupted:
        print_lines("interrupted: the same command goes on")


def _describe_found(partition: Partition) -> str:
    found = partition.found
    if found.state == "incomplete":
        return f"{found.shards_done:,} of {plural(found.shards, 'shard')}"
    return f"{found.failed:,} failed" if found.state == "failed rows" else found.state
