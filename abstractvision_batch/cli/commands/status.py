"""`status`: how far a run is, from what is on its storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.commands.run import describe_failures
from abstractvision_batch.cli.output import format_cost, format_size, one_line, plural, print_json, print_lines
from abstractvision_batch.cli.spec_options import SpecOptions, TimedOptions
from abstractvision_batch.text.to_json import to_json

if TYPE_CHECKING:
    from abstractvision_batch.runs.counts import Counts
    from abstractvision_batch.runs.opened import Run
    from abstractvision_batch.verbs.status import RunStatus

RunArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A run's folder or URL, or the spec that wrote it.", show_default=False)
]


def status(
    path: RunArgument,
    given: TimedOptions,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: shards and rows done, failures, size."""
    from abstractvision_batch.verbs.status import status as read_status

    run = open_located_run(path, storage_options, given)
    state = read_status(run)
    if as_json:
        print_json(to_json(state))
        return
    _print_state(run, state)
    print_lines(*describe_failures(state.failures))
    if not state.complete:
        print_lines("", "not complete: run the same spec again to resume")


def _print_state(run: Run, state: RunStatus) -> None:
    rows = _count_rows(state)
    width = max((len(one.name) for one in state.variants), default=0)
    if state.superseded:
        rows += f", {state.superseded:,} replaced by others"
    if state.not_run:
        rows += f" ({state.not_run:,} of them in shards that ended early)"
    print_lines(
        f"{state.name}  {state.task} · {one_line(run.record.made_by, width=200)}",
        "",
        f"run        {state.path}, started {state.created_at}",
        *([f"scheduled  {state.scheduled_at}"] if state.scheduled_at is not None else []),
        *(f"extended   {one['created_at']}, by {plural(one['requests'], 'request')}" for one in state.extensions),
        f"shards     {state.shards_done:,} of {state.shards:,} done",
        f"requests   {state.requests:,}: {rows}",
        *(f"  {one.name:<{width}}  {one.requests:,}: {_count_rows(one)}" for one in state.variants),
        *([f"cost       {format_cost(state.cost_usd, state.attempts)}"] if state.cost_usd is not None else []),
        f"artifacts  {format_size(state.size_bytes)}",
        f"manifest   {run.store.url_of('manifest.parquet') if state.merged else 'not merged yet'}",
    )


def _count_rows(counts: Counts) -> str:
    return f"{counts.succeeded:,} succeeded, {counts.failed:,} failed, {counts.not_done:,} left"


def locate_run(
    path: str, storage_options: list[str] | None, given: SpecOptions | None = None
) -> tuple[str, dict[str, Any]]:
    """The run's folder or URL, and the options of its storage: those of its spec, and over them what is said here."""
    from abstractvision_batch.job.storage_options import parse_storage_options

    options, given = parse_storage_options(storage_options or ()), given or SpecOptions()
    if not is_spec(path):
        given.refuse()
        return path, options
    job = given.load(path)
    return job.spec.output.path, job.output_options(options)


def open_located_run(path: str, storage_options: list[str] | None, given: SpecOptions | None = None) -> Run:
    """The run, opened."""
    from abstractvision_batch.runs.opened import open_run

    return open_run(*locate_run(path, storage_options, given))


def is_spec(path: str) -> bool:
    """Whether PATH is the spec that wrote a run, not the run."""
    return path.endswith((".yaml", ".yml")) and Path(path).is_file()
