"""`avbatch run`: from a job spec to a finished dataset, top to bottom, one call per arrow of the design.

    spec.yaml → load and check → plan → execute → merge → report

Running the same spec again is how a run resumes: shards that left a manifest part are done, and only the others run.
A spec that grew extends the run when it is asked to: its plan gets further shards, and those are the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, SpecError
from abstractvision_batch.execute.progress import ProgressListener
from abstractvision_batch.job.load import JobLike
from abstractvision_batch.prompts.frames import as_job
from abstractvision_batch.runs.files import RECORD
from abstractvision_batch.runs.named_requests import find_requests
from abstractvision_batch.verbs.execution import execute
from abstractvision_batch.verbs.finish import RunResult, describe_result, finish_run
from abstractvision_batch.verbs.start import as_begun, require_installed, start_run, take_back_run


def run(
    job: JobLike,
    *,
    prompts: Any = None,
    extend: bool = False,
    only: Sequence[str] = (),
    on_progress: ProgressListener | None = None,
) -> RunResult:
    """Run a job, or what is left of it.

    Args:
        job: What `load_job` returned; or, as that takes it, a YAML file or its content.
        prompts: Prompts in place of the job's own: a pandas or polars frame, an Arrow table, a `datasets.Dataset`, a
            list of texts or rows, or a path. A frame is kept with the run, in `prompts/`.
        extend: If the output holds a run of fewer prompts, samples or matrix points, add what is missing.
        only: Ids of requests, or their first characters: their batches alone are run, and the next run does the others.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: the spec is wrong, or its output holds another run, or one that it does more than extend.
        DependencyError: a model or a package is missing.
        StorageError: reading or writing failed; running again resumes.
        ClusterError: Ray failed; running again resumes.
    """
    clock = time.monotonic()
    job = as_job(job, prompts)
    require_installed(job)
    store = job.open_output(writable=True)
    new = not store.exists(RECORD)
    record = start_run(job, store, extend=extend)
    job = as_begun(job, record)
    try:
        asked = find_requests(store.open, record.plan, only).batches if only else None
        tracker, ending = execute(job, store, record.plan, on_progress, asked)
    except (SpecError, CapabilityNotSupportedError, DependencyError):
        if new:
            take_back_run(store, record)
        raise
    record, counts = finish_run(store, record, tracker)
    result = describe_result(store, record, tracker, ending, counts, elapsed_s=time.monotonic() - clock)
    return result if asked is None else replace(result, failed_of_asked=tracker.failed_rows)
