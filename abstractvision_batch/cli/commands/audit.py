"""`audit`: whether a run is whole, with one line for each thing that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.commands.status import RunArgument, locate_run
from abstractvision_batch.cli.output import format_size, one_line, plural, print_json, print_lines
from abstractvision_batch.cli.spec_options import SpecOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.verbs.audit import AuditReport

#: Findings that are printed; `--json` has all of them.
SHOWN_FINDINGS = 20
#: Shards that are named as not done.
SHOWN_SHARDS = 10


def audit(
    path: RunArgument,
    given: SpecOptions,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Remove what belongs to nothing, merge anew, and have lost shards redone by the next run."
        ),
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at presence and size of files, not their content.")
    ] = False,
    grace_s: Annotated[
        float, typer.Option("--grace-s", min=0.0, help="Seconds: younger orphans are not removed by --repair.")
    ] = 3600.0,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a run is whole: planned requests, rows, files and their hashes. Exits with 1 if it is not.

    Also with 1 if it is whole, but not complete.
    """
    from abstractvision_batch.verbs.audit import audit as audit_run

    folder, options = locate_run(path, storage_options, given)
    report = audit_run(folder, options, fast=fast, repair=repair, grace_s=grace_s)
    if as_json:
        print_json({"ok": report.exit_code == 0, **to_json(report)})
    else:
        print_lines(*_describe(report))
    raise typer.Exit(report.exit_code)


def _describe(report: AuditReport) -> Iterator[str]:
    for finding in report.findings[:SHOWN_FINDINGS]:
        yield one_line(finding, width=240)
    if len(report.findings) > SHOWN_FINDINGS:
        yield f"and {len(report.findings) - SHOWN_FINDINGS:,} more (--json has them all)"
    if report.findings:
        yield ""
    checked = "presence and size" if report.fast else "size and sha256"
    yield f"run        {report.path}"
    yield f"shards     {report.shards_done:,} of {report.shards:,} done"
    left = f", {report.not_done:,} left" if report.not_done else ""
    yield f"requests   {report.requests:,}: {report.succeeded:,} succeeded, {report.failed:,} failed{left}"
    if report.left_shards:
        shown = ", ".join(map(str, report.left_shards[:SHOWN_SHARDS]))
        more = len(report.left_shards) - SHOWN_SHARDS
        yield f"not done   shards {shown}" + (f" and {more:,} more" if more > 0 else "")
    if report.superseded:
        yield f"replaced   {plural(report.superseded, 'failed request')} by others of an extension"
    yield f"files      {report.files:,}, {format_size(report.size_bytes)}, {checked} checked"
    yield f"root       {report.root or 'none: the plan cannot be read'}"
    if report.removed:
        yield f"repaired   {plural(len(report.removed), 'orphan')} removed"
    if report.merged:
        yield "repaired   manifest.parquet merged anew"
    if report.rewritten:
        yield "repaired   metadata.parquet written again"
    if report.forgotten:
        yield f"repaired   {plural(len(report.forgotten), 'shard')} forgotten: run the spec again, which redoes them"
    if not report.whole:
        yield f"not whole: {plural(len(report.remaining), 'finding')}"
    else:
        yield "whole" if report.complete else "whole, but not complete: run the spec again, which does what is left"
