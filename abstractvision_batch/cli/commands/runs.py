"""`runs`: the runs below a folder or URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.output import plural, print_json, print_lines, print_notes, print_table
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from abstractvision_batch.runs.listing import RunState


def runs(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder or URL with runs below it.", show_default=False)
    ],
    depth: Annotated[int, typer.Option("--depth", min=0, metavar="N", help="How many folders deep to look.")] = 5,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs below a folder or URL, with how far each is; none of them is looked into."""
    from abstractvision_batch.job.storage_options import parse_storage_options
    from abstractvision_batch.runs.listing import list_runs

    found = list_runs(path, parse_storage_options(storage_options or ()), depth=depth)
    if as_json:
        print_json({"path": path, "runs": to_json(found)})
        return
    if found:
        _print_runs(path, found)
    print_lines(
        f"{plural(len(found), 'run')} at {path}" if found else f"no runs at {path}, {plural(depth, 'folder')} deep"
    )
    print_notes(*(run.problem for run in found if run.problem))


def _print_runs(path: str, found: list[RunState]) -> None:
    from abstractvision_batch.registry.prices import format_usd

    place = path if "://" in path else str(Path(path).expanduser().absolute())
    prefix = f"{place.rstrip('/')}/"
    headers = ["RUN", "NAME", "SCHEDULED AT", "STATE", "ROWS", "FAILED", "STARTED", "COST"]
    rows = [
        [
            run.path.removeprefix(prefix),
            run.name,
            None if run.scheduled_at is None else run.scheduled_at.isoformat(timespec="minutes"),
            f"{run.shards_done:,} of {plural(run.shards, 'shard')}" if run.state == "incomplete" else run.state,
            None if run.name is None else f"{run.succeeded + run.failed:,} of {run.requests:,}",
            f"{run.failed:,}" if run.failed else None,
            run.created_at,
            None if run.cost_usd is None else format_usd(run.cost_usd),
        ]
        for run in found
    ]
    used = [column for column in range(len(headers)) if any(row[column] is not None for row in rows)]
    print_table([headers[column] for column in used], [[row[column] for column in used] for row in rows])
    print_lines("")
