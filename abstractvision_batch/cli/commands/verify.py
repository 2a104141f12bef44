"""`verify`: generate rows of a run again and compare, with one line for each that does not match."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, SetOption, StorageOption, TrustOption, read_names
from abstractvision_batch.cli.commands.status import RunArgument, locate_run
from abstractvision_batch.cli.output import one_line, plural, print_json, print_lines
from abstractvision_batch.cli.progress_display import show_progress
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.verbs.verify import RowVerdict, VerifyReport

#: Rows that are printed; `--json` has all of them.
SHOWN_ROWS = 20


def verify(
    path: RunArgument,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, metavar="N", help="How many rows, spread over what the requests differ in (8)."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every row.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            "--id",
            metavar="ID",
            help="This request, with the batch that it was in, by its id or the first 6 characters of it, or more; "
            "repeatable, and @FILE has one in each line.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH", help="Keep what is generated in this folder or URL."),
    ] = None,
    python: Annotated[
        bool,
        typer.Option("--python", help="Generate nothing: print a program without avbatch that generates the --only."),
    ] = False,
    overrides: SetOption = None,
    trust: TrustOption = False,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Generate rows of a run again, in a temporary place, and compare the pixels. Exits with 1 if they do not match.

    --set takes fields that change no pixel, as execution.executor=inline.
    """
    names = read_names(only)
    if sum((sample is not None, everything, bool(names))) > 1:
        raise typer.BadParameter("one of --sample, --all and --only", param_hint="--sample")
    if python and len(names) != 1:
        raise typer.BadParameter("needs one --only", param_hint="--python")
    from abstractvision_batch.runs.named_requests import find_requests
    from abstractvision_batch.runs.opened import open_run
    from abstractvision_batch.verbs.program import write_program
    from abstractvision_batch.verbs.verify import DEFAULT_SAMPLE
    from abstractvision_batch.verbs.verify import verify as verify_rows

    folder, options = locate_run(path, storage_options)
    if python:
        opened = open_run(folder, options)
        (id_,) = find_requests(opened.store.open, opened.plan, names).ids
        print_lines(write_program(opened, id_, trust=trust).rstrip())
        return
    with redirect_stdout(sys.stderr), show_progress(quiet=quiet) as on_progress:
        report = verify_rows(
            folder,
            sample=None if everything else sample or DEFAULT_SAMPLE,
            ids=names,
            output=output,
            overrides=overrides or (),
            trust=trust,
            storage_options=options,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"ok": report.exit_code == 0, **to_json(report)})
    elif not quiet:
        print_lines(*_describe(report))
        if output is not None and report.rows:
            print_lines(f"kept       {output} (avbatch diff {folder} {output})")
    raise typer.Exit(report.exit_code)


def _describe(report: VerifyReport) -> Iterator[str]:
    wrong = [row for row in report.rows if row.verdict in ("mismatch", "failed")]
    for row in wrong[:SHOWN_ROWS]:
        yield f"{row.request_id}: {row.verdict} ({row.reproducibility}): {_reason(row)}"
        yield f"    prompt: {one_line(row.prompt, width=100)}"
    if len(wrong) > SHOWN_ROWS:
        yield f"and {len(wrong) - SHOWN_ROWS:,} more (--json has them all)"
    for change in report.changes[:SHOWN_ROWS]:
        yield f"changed    {change.name}: {one_line(change.left, width=60)} → {one_line(change.right, width=60)}"
    if wrong and not report.changes:
        yield "changed    nothing that is recorded: software, machine and weights are as they were"
    if wrong or report.changes:
        yield ""
    yield f"run        {report.path}"
    yield f"generated  {plural(len(report.rows), 'row')} again, of {report.verifiable:,} that can be verified"
    if report.rows:
        share = f"{100 * report.identical / len(report.rows):.4g} %"
        yield f"identical  {report.identical:,} of {len(report.rows):,}, {share}"
        yield f"match      {report.count('match'):,}; mismatch {len(wrong):,}"
    if report.interrupted:
        yield "interrupted: not all rows were generated again"
    elif not report.rows:
        yield "nothing to verify: no row succeeded with a seed"
    else:
        rows = plural(len(report.rows), "row")
        yield "verified" if report.exit_code == 0 else f"not verified: {len(wrong):,} of {rows} differ"


def _reason(row: RowVerdict) -> str:
    return row.note or "nothing to compare" if row.comparison is None else row.comparison.describe()
