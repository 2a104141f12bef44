"""`validate` and `plan`: what a spec would do, without doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import JsonOption, RegistryOption, SetOption, SpecArgument
from abstractvision_batch.cli.output import one_line, plural, print_json, print_lines, print_notes, print_table
from abstractvision_batch.cli.schedule_options import AtOption, CronOption, TimezoneOption, load_at
from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError
from abstractvision_batch.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.job.load import LoadedSpec
    from abstractvision_batch.runs.plan_summary import PlanSummary

#: Columns of the table of first rows, where they differ between rows or are always worth a look.
SHOWN_COLUMNS = ("index", "shard", "batch_id", "batch_slot", "prompt_id", "seed")
#: Of a plan, whose prompts `validate` measures: a second or two.
MAX_COUNTED_ROWS = 20_000
VARYING_COLUMNS = ("steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength", "negative_prompt")


def validate(
    spec: SpecArgument,
    overrides: SetOption = None,
    registry: RegistryOption = None,
    at: AtOption = None,
    cron: CronOption = None,
    timezone: TimezoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Check a spec and every prompt; start nothing.

    All problems are reported at once, each with its place in the file.
    """
    from abstractvision_batch.plan.build import build_plan
    from abstractvision_batch.verbs.model_check import check_parameters, count_cut_prompts
    from abstractvision_batch.verbs.start import check_time_limits

    loaded = load_at(spec, overrides, registry, at=at, cron=cron, timezone=timezone)
    check_time_limits(loaded)
    missing = _missing_dependencies(loaded)
    long_prompts = longest = 0
    with scratch_folder() as folder:
        plan_summary = build_plan(loaded, folder)
        if not missing:
            check_parameters(loaded)
            long_prompts, longest = count_cut_prompts(loaded, _read_prompts(folder, plan_summary))
    missing += _missing_packages(loaded)
    if as_json:
        print_json(
            {
                "ok": True,
                "problems": [],
                "missing": missing,
                "prompts_cut": long_prompts,
                **_describe_plan(loaded, plan_summary),
            }
        )
        return
    print_lines(f"OK  {spec}: {_count(plan_summary)}")
    print_notes(*(f"note: {line}" for line in plan_summary.notes))
    print_notes(*(f"note: cannot run here: {line}" for line in missing))
    if long_prompts:
        print_notes(
            f"note: the model reads only the beginning of {plural(long_prompts, 'prompt')} "
            f"(up to {plural(longest, 'token')} are cut)"
        )


def plan(
    spec: SpecArgument,
    output: Annotated[Path | None, typer.Option(help="Also write the plan to this Parquet file.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show.")] = 10,
    extend: Annotated[
        bool, typer.Option("--extend", help="Only what run --extend would add to the run in output.path.")
    ] = False,
    overrides: SetOption = None,
    registry: RegistryOption = None,
    at: AtOption = None,
    cron: CronOption = None,
    timezone: TimezoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Show the requests that a run would make: a dry run."""
    from abstractvision_batch.plan.build import build_plan

    loaded = load_at(spec, overrides, registry, at=at, cron=cron, timezone=timezone)
    existing: PlanSummary | None = None
    with scratch_folder() as folder:
        if extend:
            existing, summary = _plan_extension(loaded, folder)
        else:
            summary = build_plan(loaded, folder)
        first = _read_first_rows(folder, summary, rows)
        if output is not None:
            _write_plan(folder, summary, output)
    if as_json:
        kept = {"kept_requests": existing.requests if existing else 0} if extend else {}
        shown = {"output": output and str(output), "rows": first}
        print_json({**_describe_plan(loaded, summary), **kept, **shown})
        return
    print_lines(f"{loaded.spec.name}: {_count(summary) if existing is None else _count_added(existing, summary)}", "")
    if first:
        _print_rows(first)
    if summary.requests > len(first):
        print_lines(f"… and {plural(summary.requests - len(first), 'more row')}")
    if output is not None:
        print_lines("", f"wrote {output}")
    print_notes(*(f"note: {line}" for line in summary.notes))


def _count(summary: PlanSummary) -> str:
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


def _plan_extension(loaded: LoadedSpec, folder: Path) -> tuple[PlanSummary | None, PlanSummary]:
    """The plan of the run in the output, None where there is no run, and what is added to it."""
    from abstractvision_batch.job.env import resolve_options
    from abstractvision_batch.plan.build import build_plan
    from abstractvision_batch.runs.record import read_record
    from abstractvision_batch.storage.store import open_store
    from abstractvision_batch.verbs.extend import plan_extension

    output = loaded.spec.output
    store = open_store(output.path, resolve_options(output.storage_options, "output.storage_options"))
    record = read_record(store)
    if record is None:
        return None, build_plan(loaded, folder)
    return record.plan, plan_extension(loaded, store, record, folder)


def _describe_plan(loaded: LoadedSpec, summary: PlanSummary) -> dict[str, Any]:
    spec = loaded.spec
    return {
        "name": spec.name,
        "task": spec.task,
        "model": spec.model,
        "backend": spec.backend.kind,
        "output_path": spec.output.path,
        "scheduled_at": None if loaded.scheduled_at is None else loaded.scheduled_at.isoformat(),
        "notes": list(summary.notes),
        **{name: value for name, value in summary.to_json().items() if name not in ("files", "columns")},
    }


def _missing_dependencies(loaded: LoadedSpec) -> list[str]:
    """What a run on this machine would lack; a spec may well be checked on another."""
    from abstractvision_batch.backends.table import require_extra
    from abstractvision_batch.execute.executors import require_executor

    missing = []
    for require, name in (
        (require_extra, loaded.spec.backend.kind),
        (require_executor, loaded.spec.execution.executor),
    ):
        try:
            require(name)
        except OptionalDependencyMissingError as error:
            missing.append(str(error))
    return missing


def _read_prompts(folder: Path, summary: PlanSummary) -> Iterator[str]:
    """Each prompt of the plan once, of the first so many rows."""
    from itertools import islice

    from abstractvision_batch.runs.plan_rows import iter_rows

    rows = iter_rows(lambda name: (folder / name).open("rb"), summary)
    seen = dict.fromkeys(row["prompt"] or "" for row in islice(rows, MAX_COUNTED_ROWS))
    return iter(seen)


def _missing_packages(loaded: LoadedSpec) -> list[str]:
    """What the model needs besides its backend."""
    from importlib.util import find_spec

    packages = loaded.card.backends.get(loaded.spec.backend.kind, {}).get("packages", ())
    return [f"{loaded.card.id} needs {name} (pip install {name})" for name in packages if find_spec(name) is None]


def _read_first_rows(folder: Path, summary: PlanSummary, rows: int) -> list[dict[str, Any]]:
    from itertools import islice

    from abstractvision_batch.runs.plan_rows import iter_rows

    return list(islice(iter_rows(lambda name: (folder / name).open("rb"), summary), rows))


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
