"""`run`: run a job, or what is left of it, showing how far it is and how it ended."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, OnlyOption, SpecArgument, read_names
from abstractvision_batch.cli.output import (
    format_cost,
    format_duration,
    format_rate,
    one_line,
    plural,
    print_json,
    print_lines,
    print_notes,
)
from abstractvision_batch.cli.progress_display import show_progress
from abstractvision_batch.cli.spec_options import TimedOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from abstractvision_batch.job.load import Job
    from abstractvision_batch.job.model import JobSpec
    from abstractvision_batch.report.outcomes import FailureGroup
    from abstractvision_batch.verbs.finish import RunResult

#: What the notes say that a summary counts (`execute.progress.NOTED`).
NOTES = {"transport": "came in another size or type than asked for, or lost pixels on the way"}
#: Kinds of failure that the summary names; the manifest has all of them.
SHOWN_FAILURES = 5
#: Of a run whose rows are looked at for prompts that were cut.
MAX_READ_ROWS = 100_000


def run(
    spec: SpecArgument,
    given: TimedOptions,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Run on this Ray cluster, whatever the spec's execution says: its head, as 10.0.0.5:6379.",
        ),
    ] = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse what is not as SPEC's lock file says (avbatch lock writes it).")
    ] = False,
    new_run: Annotated[
        bool,
        typer.Option("--new-run", help="If output.path holds another run, go beside it, to output.path-2 or so on."),
    ] = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="If output.path holds a run of fewer prompts, samples or matrix points, add the others."
        ),
    ] = False,
) -> None:
    """Run a job. The same command again resumes it, and does nothing once it is complete.

    With --only, the batches of these requests alone; without it, the next run does the others.
    """
    if new_run and extend:
        raise typer.BadParameter("--new-run leaves the run there alone, --extend adds to it", param_hint="--extend")
    from abstractvision_batch.execute.ray.address import require_driver_address

    if address is not None:
        require_driver_address(address, f"--address {address}")
        on_ray = ["execution.executor=ray", f"execution.address={json.dumps(address)}"]
        given = replace(given, overrides=[*(given.overrides or ()), *on_ray])
    job = given.load(spec)
    # Only now what a wrong spec need not wait for.
    from abstractvision_batch.report.run_report import read_outcomes
    from abstractvision_batch.runs.opened import open_run
    from abstractvision_batch.verbs.lock import require_locked
    from abstractvision_batch.verbs.run import run as run_job
    from abstractvision_batch.verbs.start import choose_output

    if locked:
        job = require_locked(job)
    if new_run:
        job = choose_output(job)
    # What a library prints on the way is no result.
    with redirect_stdout(sys.stderr), show_progress(quiet=quiet) as on_progress:
        result = run_job(job, extend=extend, only=read_names(only), on_progress=on_progress)
    failures: tuple[FailureGroup, ...] = ()
    if result.failed and (as_json or not quiet):
        opened = open_run(job)
        failures = read_outcomes(opened.store, opened.plan).failures
    cut = 0 if quiet else _count_cut_rows(job, result)
    if as_json:
        print_json({"ok": result.exit_code == 0, **to_json(result), "failures": to_json(failures), "prompts_cut": cut})
    elif not quiet:
        print_lines(*summarise_run(job.spec, result, failures, scheduled_at=job.scheduled_at, cut=cut))
        print_notes(*(f"note: {line}" for line in result.plan_notes))
    if result.incomplete_because:
        print_notes(result.incomplete_because)
    raise typer.Exit(result.exit_code)


def _count_cut_rows(job: Job, result: RunResult) -> int:
    """Count the rows whose prompt was cut, in runs that are quickly read."""
    if result.manifest_path is None or result.requests > MAX_READ_ROWS:
        return 0
    import pyarrow.compute as pc

    from abstractvision_batch.runs.manifest import iter_rows
    from abstractvision_batch.runs.opened import open_run

    opened = open_run(job)
    tables = iter_rows(opened.store, ["metadata_json"], plan=opened.plan)
    found = (pc.sum(pc.match_substring(table["metadata_json"], '"prompt_tokens_cut"')).as_py() for table in tables)
    return sum(count or 0 for count in found)


def summarise_run(
    spec: JobSpec,
    result: RunResult,
    failures: tuple[FailureGroup, ...],
    *,
    scheduled_at: datetime | None = None,
    cut: int = 0,
) -> Iterator[str]:
    """What was done and where it is, on one screen; `cut` rows had prompts that the model did not read to their end."""
    if result.generated == 0 and result.failed_of_asked is not None and not result.complete:
        yield "nothing to do: the requests that are asked for are done"
    if result.generated == 0 and result.complete and not (result.interrupted or result.stopped):
        yield f"nothing to do: all {plural(result.requests, 'request')} are done"
    yield f"{spec.name}  {spec.task} · {one_line(result.run.record.made_by, width=200)}"
    if spec.description:
        yield f"  {one_line(spec.description, width=100)}"
    yield ""
    missing = f", {result.superseded:,} replaced by others" if result.superseded else ""
    missing += f", {result.not_done:,} not done yet" if result.not_done else ""
    yield f"requests   {result.requests:,}: {result.succeeded:,} succeeded, {result.failed:,} failed{missing}"
    if result.generated:
        rate = format_rate(result.generated / result.elapsed_s) if result.elapsed_s > 0 else "-"
        before = f"; {result.skipped:,} were done before" if result.skipped else ""
        yield f"this time  {result.generated:,} in {format_duration(result.elapsed_s)}, {rate}{before}"
    if result.cost_usd is not None:
        yield f"cost       {format_cost(result.cost_usd, result.attempts)}"
    if cut:
        yield f"prompts    of {plural(cut, 'row')} are longer than the model reads (prompt_tokens_cut in metadata_json)"
    for name, rows in result.notes.items():
        yield f"note       {plural(rows, 'row')} {NOTES[name]} (metadata_json: {name})"
    yield from describe_failures(failures)
    yield ""
    yield f"run        {result.path}"
    if scheduled_at is not None:
        yield f"scheduled  {scheduled_at.isoformat()}"
    if result.manifest_path:
        yield f"manifest   {result.manifest_path}"
    if result.contact_sheet_path:
        yield f"pictures   {result.contact_sheet_path}"
    if result.gallery_path:
        yield f"gallery    {result.gallery_path}"
    if result.manifest_path:
        yield f"reading    {result.path}/README.md shows how, with pandas, DuckDB and datasets"
    if result.stopped:
        yield result.stopped
    if result.interrupted:
        yield "interrupted: run the same command again to resume"


def describe_failures(failures: tuple[FailureGroup, ...]) -> Iterator[str]:
    """Kinds of failure with an example each, the most frequent first."""
    for group in failures[:SHOWN_FAILURES]:
        yield f"  {group.rows:,} × {group.error_kind} ({group.error_class}), for example {group.request_id}:"
        yield f"    {one_line(group.error_message, width=160)}"
        yield f"    prompt: {one_line(group.prompt, width=100)}"
    if len(failures) > SHOWN_FAILURES:
        yield f"  and {plural(len(failures) - SHOWN_FAILURES, 'other kind')} (the manifest's column error_kind)"
