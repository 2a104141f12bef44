"""`plan`: the requests that a run would make, without making them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from abstractvision_batch.cli.command import JsonOption, OnlyOption, SpecArgument, read_names
from abstractvision_batch.cli.output import one_line, plural, print_json, print_lines, print_notes, print_table
from abstractvision_batch.cli.spec_options import TimedOptions
from abstractvision_batch.errors import SpecError
from abstractvision_batch.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abstractvision_batch.job.load import Job
    from abstractvision_batch.runs.plan_summary import PlanSummary

#: Columns of the table of first rows, where they differ between rows or are always worth a look.
SHOWN_COLUMNS = ("index", "shard", "batch_id", "batch_slot", "prompt_id", "seed")
VARYING_COLUMNS = ("steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength", "negative_prompt")


def plan(
    spec: SpecArgument,
    given: TimedOptions,
    output: Annotated[Path | None, typer.Option(help="Also write the plan to this Parquet file.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show.")] = 10,
    extend: Annotated[
        bool, typer.Option("--extend", help="Only what run --extend would add to the run in output.path.")
    ] = False,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the requests that a run would make: a dry run. With --only, the batches that a run of these would make."""
    from abstractvision_batch.verbs.plan import write_plan

    job = given.load(spec)
    with scratch_folder() as folder:
        existing, summary = write_plan(job, folder, extend=extend)
        names = read_names(only)
        first = _read_named_rows(folder, summary, names) if names else _read_first_rows(folder, summary, rows)
        if output is not None:
            _write_plan(folder, summary, output)
    if as_json:
        kept = {"kept_requests": existing.requests if existing else 0} if extend else {}
        shown = {"output": output and str(output), "rows": first}
        print_json({**describe_plan(job, summary), **kept, **shown})
        return
    print_lines(f"{job.spec.name}: {count_plan(summary) if existing is None else _count_added(existing, summary)}", "")
    if first:
        _print_rows(first)
    if summary.requests > len(first):
        print_lines(f"… and {plural(summary.requests - len(first), 'more row')}")
    if output is not None:
        print_lines("", f"wrote {output}")
    print_notes(*(f"note: {line}" for line in summary.notes))


def count_plan(summary: PlanSummary) -> str:
    """Return what a plan has, in a line."""
    points = f" × {plural(summary.matrix_points, 'parameter set')}" if summary.matrix_points > 1 else ""
    samples = f" × {plural(summary.samples_per_prompt, 'sample')}" if summary.samples_per_prompt > 1 else ""
    return (
        f"{plural(summary.requests, 'request')} ({plural(summary.prompts, 'prompt')}{points}{samples}) in "
        f"{plural(summary.shards, 'shard')} of up to {plural(summary.shard_size, 'request')}, "
        f"{summary.batches:,} {'batch' if summary.batches == 1 else 'batches'} of up to {summary.batch_size:,}"
    )


def _count_added(existing: PlanSummary, added: PlanSummary) -> str:
    kept = f"the {plural(existing.requests, 'request')} there"
    if not added.requests:
        return f"adds nothing to {kept}"
    return (
        f"adds {plural(added.requests, 'request')} in {plural(added.shards, 'shard')} to {kept}, which stay as they are"
    )


def describe_plan(job: Job, summary: PlanSummary) -> dict[str, Any]:
    """Return what `--json` shows of a plan."""
    spec = job.spec
    return {
        "name": spec.name,
        "task": spec.task,
        "model": spec.model,
        "backend": spec.backend.kind,
        **({"variants": _describe_variants(job, summary)} if job.parts else {}),
        "output_path": spec.output.path,
        "scheduled_at": None if job.scheduled_at is None else job.scheduled_at.isoformat(),
        "notes": list(summary.notes),
        **{name: value for name, value in summary.to_json().items() if name not in ("files", "columns")},
    }


def _describe_variants(job: Job, summary: PlanSummary) -> dict[str, Any]:
    shards: dict[str | None, int] = {}
    for file in summary.files:
        shards[file.variant] = shards.get(file.variant, 0) + file.shards
    return {
        str(part.variant): {
            "model": part.spec.model,
            "backend": part.spec.backend.kind,
            "shards": shards.get(part.variant, 0),
        }
        for part in job.parts
    }


def _read_first_rows(folder: Path, summary: PlanSummary, rows: int) -> list[dict[str, Any]]:
    from itertools import islice

    from abstractvision_batch.runs.plan_rows import iter_rows

    return list(islice(iter_rows(lambda name: (folder / name).open("rb"), summary), rows))


def _read_named_rows(folder: Path, summary: PlanSummary, names: Sequence[str]) -> list[dict[str, Any]]:
    """Read the rows of the batches that requests are in."""
    from abstractvision_batch.runs.named_requests import find_requests
    from abstractvision_batch.runs.plan_rows import read_shard

    def open_file(name: str) -> BinaryIO:
        return (folder / name).open("rb")

    found = find_requests(open_file, summary, names).batches
    rows = (row for shard in found for row in read_shard(open_file, summary, shard).to_pylist())
    return [row for row in rows if row["batch_id"] in found[row["shard"]]]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    varying = [name for name in VARYING_COLUMNS if len({row[name] for row in rows}) > 1]
    names = [*SHOWN_COLUMNS, *varying, "prompt"]
    print_table([name.upper() for name in names], [[one_line(row[name]) for name in names] for row in rows])


def _write_plan(folder: Path, summary: PlanSummary, output: Path) -> None:
    """The whole plan as one file, however many files it has in a run; a row group stays a shard."""
    from abstractvision_batch.storage.parquet import open_parquet, open_writer

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with open_writer(output, summary.schema, summary.schema.metadata or {}) as writer:
            for file in summary.files:
                source = open_parquet(folder / file.name, name=str(folder / file.name))
                for group in range(source.metadata.num_row_groups):
                    writer.write_table(source.read_row_group(group))
    except OSError as error:
        raise SpecError(f"{output}: cannot be written: {error.strerror or error}") from error
