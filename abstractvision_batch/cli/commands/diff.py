"""`diff`: what two runs do not share, from their specs to their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.commands.status import RunArgument, open_located_run
from abstractvision_batch.cli.output import one_line, plural, print_json, print_lines
from abstractvision_batch.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.verbs.diff import DiffReport, Pair

#: Lines of each kind that are printed; `--json` has all of them.
SHOWN = 20


def diff(
    left: RunArgument,
    right: Annotated[
        str | None,
        typer.Argument(metavar="[PATH]", help="The other run; left out, the same one.", show_default=False),
    ] = None,
    variants: Annotated[
        tuple[str, str] | None,
        typer.Option("--variants", metavar="LEFT RIGHT", help="Compare these two variants.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that shows the pairs beside each other.")
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", min=0, metavar="N", help="Pairs on the page, the greatest difference first.")
    ] = 200,
    measured: Annotated[
        int, typer.Option("--measure", min=0, metavar="N", help="Pairs of unequal pixels to decode and measure.")
    ] = 1000,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs, or two variants: specs, prompts, environments, rows and pixels.

    Exits with 1 if requests or pixels differ.
    """
    from abstractvision_batch.verbs.diff import compare_runs, write_page

    if right is None and variants is None:
        raise SpecError("diff: one run has nothing to be compared with (name another, or --variants LEFT RIGHT)")
    one = open_located_run(left, storage_options)
    other = one if right is None else open_located_run(right, storage_options)
    report = compare_runs(one, other, variants=variants, measured=measured)
    if html is not None:
        write_page(report, one, other, html, pairs=pairs)
    if as_json:
        print_json({"ok": report.exit_code == 0, **report.to_json()})
    else:
        print_lines(*_describe(report))
        if html is not None:
            print_lines(f"page       {html}")
    raise typer.Exit(report.exit_code)


def _describe(report: DiffReport) -> Iterator[str]:
    for change in report.changes[:SHOWN]:
        values = f"{one_line(change.left, width=60)} → {one_line(change.right, width=60)}"
        yield f"{change.kind:<11} {change.name}: {values}"
    if len(report.changes) > SHOWN:
        yield f"and {len(report.changes) - SHOWN:,} more (--json has them all)"
    if report.changes:
        yield ""
    for pair in report.pairs[:SHOWN]:
        yield from _describe_pair(pair)
    if len(report.pairs) > SHOWN:
        yield f"and {len(report.pairs) - SHOWN:,} more pairs (--json has them all, --html shows them)"
    if report.pairs:
        yield ""
    yield f"left       {report.left}"
    yield f"right      {report.right}"
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in report.by_verdict.items())
    yield f"pairs      {report.paired:,}: {counts}"
    if report.changed_columns:
        yield "changed    " + ", ".join(f"{name} in {count:,}" for name, count in report.changed_columns.items())
    if report.only_left or report.only_right:
        yield f"unpaired   {len(report.only_left):,} only left, {len(report.only_right):,} only right"
    yield "the same" if report.exit_code == 0 else f"not the same: {plural(len(report.pairs), 'pair')} differ"


def _describe_pair(pair: Pair) -> Iterator[str]:
    figures = pair.verdict if pair.comparison is None else pair.comparison.describe()
    yield f"{pair.right['index']:>6}  {figures}"
    yield f"        {one_line(pair.right['prompt'], width=100)}"
