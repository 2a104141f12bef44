"""`retry`: run what failed of a run again."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, OnlyOption, StorageOption, TrustOption, read_names
from abstractvision_batch.cli.commands.status import RunArgument, is_spec
from abstractvision_batch.cli.output import format_cost, format_duration, plural, print_json, print_lines, print_notes
from abstractvision_batch.cli.progress_display import show_progress
from abstractvision_batch.cli.spec_options import SpecOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.job.load import Job
    from abstractvision_batch.verbs.finish import RunResult


def retry(
    path: RunArgument,
    given: SpecOptions,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="SQL",
            help="Only failed rows that meet a SQL condition over the manifest's columns, e.g. "
            "\"error_class = 'transient' AND prompt ILIKE '%fox%'\"; by default all of them.",
        ),
    ] = None,
    only: OnlyOption = None,
    trust: TrustOption = False,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run failed rows of a run again, and no other. --set takes fields that change no pixel."""
    from abstractvision_batch.job.storage_options import parse_storage_options
    from abstractvision_batch.verbs.retry import retry as retry_rows

    options = parse_storage_options(storage_options or ())
    run: str | Job = path
    if is_spec(path):
        run = given.load(path)
    with redirect_stdout(sys.stderr), show_progress(quiet=quiet) as on_progress:
        result = retry_rows(
            run,
            where=where,
            only=read_names(only),
            overrides=given.overrides or (),
            trust=trust,
            storage_options=options,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"ok": result.exit_code == 0, **to_json(result)})
    elif not quiet:
        print_lines(*_describe(result))
    if result.incomplete_because:
        print_notes(result.incomplete_because)
    raise typer.Exit(result.exit_code)


def _describe(result: RunResult) -> Iterator[str]:
    if result.generated:
        yield f"retried    {plural(result.generated, 'failed row')} in {format_duration(result.elapsed_s)}"
    elif not (result.interrupted or result.stopped):
        yield "nothing to retry: no failed row is asked for"
    not_done = f", {result.not_done:,} not done yet (run the spec again)" if result.not_done else ""
    yield f"requests   {result.requests:,}: {result.succeeded:,} succeeded, {result.failed:,} failed{not_done}"
    if result.cost_usd is not None:
        yield f"cost       {format_cost(result.cost_usd, result.attempts)}"
    yield f"run        {result.path}"
    if result.stopped:
        yield result.stopped
    if result.interrupted:
        yield "interrupted: the same command goes on with what is still failed"
