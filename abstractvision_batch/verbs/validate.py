"""`avbatch validate`: whether a spec and every prompt of it is right, without starting anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.table import require_extra
from abstractvision_batch.errors import OptionalDependencyMissingError
from abstractvision_batch.execute.executors import require_executor
from abstractvision_batch.job.load import Job, JobLike
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.prompts.frames import as_job
from abstractvision_batch.runs.plan_rows import iter_rows
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.verbs.model_check import check_parameters, count_cut_prompts
from abstractvision_batch.verbs.start import check_time_limits

#: Of a plan, whose prompts are measured: a second or two.
MAX_COUNTED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Validation:
    """What is known of a job that is right."""

    plan: PlanSummary
    missing: tuple[str, ...]
    """What a run on this machine would lack, a line each; a spec may well be checked on another."""
    prompts_cut: int
    """Prompts of which the model reads only the beginning, of the variant with most, as far as is known here."""
    tokens_cut: int
    """What the longest of them loses."""


def validate(job: JobLike, *, prompts: Any = None) -> Validation:
    """Check a job and every prompt of it; nothing is loaded, generated or written.

    Args:
        job: What `load_job` returned; or, as that takes it, a YAML file or its content.
        prompts: Prompts in place of the job's own, as `run` takes them.

    Raises:
        SpecError: the spec or a prompt is wrong, all problems together.
        StorageError: reading failed.
    """
    job = as_job(job, prompts)
    check_time_limits(job)
    missing = _missing_dependencies(job)
    cut = longest = 0
    with scratch_folder() as folder:
        summary = build_plan(job, folder)
        if not missing:
            for variant in job.variants:
                check_parameters(variant)
                count, tokens = count_cut_prompts(variant, _read_prompts(folder, summary, variant.variant))
                cut, longest = max(cut, count), max(longest, tokens)
    return Validation(summary, (*missing, *_missing_packages(job)), cut, longest)


def _missing_dependencies(job: Job) -> list[str]:
    missing = []
    for require in (
        *(partial(require_extra, kind) for kind in dict.fromkeys(spec.backend.kind for spec in job.specs)),
        partial(require_executor, *job.specs),
    ):
        try:
            require()
        except OptionalDependencyMissingError as error:
            missing.append(str(error))
    return missing


def _missing_packages(job: Job) -> list[str]:
    """What the model needs besides its backend."""
    needs = ((one.card.id, name) for one in job.variants for name in one.card.facts(one.spec.backend.kind).packages)
    return [
        f"{model} needs {name} (pip install {name})" for model, name in dict.fromkeys(needs) if find_spec(name) is None
    ]


def _read_prompts(folder: Path, summary: PlanSummary, variant: str | None) -> Iterator[str]:
    """Each prompt of a variant's plan once, of the first so many rows."""
    own = replace(summary, files=tuple(file for file in summary.files if file.variant == variant))
    rows = iter_rows(lambda name: (folder / name).open("rb"), own)
    seen = dict.fromkeys(row["prompt"] or "" for row in islice(rows, MAX_COUNTED_ROWS))
    return iter(seen)
