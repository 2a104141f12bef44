"""`validate`: whether a spec and every prompt of it is right, without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from abstractvision_batch.cli.command import JsonOption, SpecArgument
from abstractvision_batch.cli.commands.plan import count_plan, describe_plan
from abstractvision_batch.cli.output import plural, print_json, print_lines, print_notes
from abstractvision_batch.cli.spec_options import TimedOptions
from abstractvision_batch.errors import OptionalDependencyMissingError
from abstractvision_batch.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abstractvision_batch.job.load import Job
    from abstractvision_batch.runs.plan_summary import PlanSummary

#: Of a plan, whose prompts are measured: a second or two.
MAX_COUNTED_ROWS = 20_000


def validate(
    spec: SpecArgument,
    given: TimedOptions,
    as_json: JsonOption = False,
) -> None:
    """Check a spec and every prompt; start nothing.

    All problems are reported at once, each with its place in the file.
    """
    from abstractvision_batch.plan.build import build_plan
    from abstractvision_batch.verbs.model_check import check_parameters, count_cut_prompts
    from abstractvision_batch.verbs.start import check_time_limits

    job = given.load(spec)
    check_time_limits(job)
    missing = _missing_dependencies(job)
    long_prompts = longest = 0
    with scratch_folder() as folder:
        plan_summary = build_plan(job, folder)
        if not missing:
            for variant in job.variants:
                check_parameters(variant)
                count, tokens = count_cut_prompts(variant, _read_prompts(folder, plan_summary, variant.variant))
                long_prompts, longest = max(long_prompts, count), max(longest, tokens)
    missing += _missing_packages(job)
    if as_json:
        print_json(
            {
                "ok": True,
                "problems": [],
                "missing": missing,
                "prompts_cut": long_prompts,
                **describe_plan(job, plan_summary),
            }
        )
        return
    print_lines(f"OK  {spec}: {count_plan(plan_summary)}")
    print_notes(*(f"note: {line}" for line in plan_summary.notes))
    print_notes(*(f"note: cannot run here: {line}" for line in missing))
    if long_prompts:
        print_notes(
            f"note: the model reads only the beginning of {plural(long_prompts, 'prompt')} "
            f"(up to {plural(longest, 'token')} are cut)"
        )


def _missing_dependencies(job: Job) -> list[str]:
    """What a run on this machine would lack; a spec may well be checked on another."""
    from functools import partial

    from abstractvision_batch.backends.table import require_extra
    from abstractvision_batch.execute.executors import require_executor

    missing = []
    for require in (
        *(partial(require_extra, spec.backend.kind) for spec in job.specs),
        partial(require_executor, *job.specs),
    ):
        try:
            require()
        except OptionalDependencyMissingError as error:
            missing.append(str(error))
    return missing


def _missing_packages(job: Job) -> list[str]:
    """What the model needs besides its backend."""
    from importlib.util import find_spec

    needs = ((one.card.id, name) for one in job.variants for name in one.card.facts(one.spec.backend.kind).packages)
    return [f"{model} needs {name} (pip install {name})" for model, name in needs if find_spec(name) is None]


def _read_prompts(folder: Path, summary: PlanSummary, variant: str | None) -> Iterator[str]:
    """Each prompt of a variant's plan once, of the first so many rows."""
    from dataclasses import replace
    from itertools import islice

    from abstractvision_batch.runs.plan_rows import iter_rows

    own = replace(summary, files=tuple(file for file in summary.files if file.variant == variant))
    rows = iter_rows(lambda name: (folder / name).open("rb"), own)
    seen = dict.fromkeys(row["prompt"] or "" for row in islice(rows, MAX_COUNTED_ROWS))
    return iter(seen)
