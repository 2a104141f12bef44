"""`avbatch retry`: runs failed rows of a run again, as the next retry round of their shards.

    run.json → the same spec, with overrides that change no pixel → failed rows → execute → merge → report

Each shard with such rows leaves one more part, with those rows alone; the merge takes the newest row of each request,
and `attempts` and `cost_usd` add up. Rows that succeeded are never generated again. A retried row may leave its pinned
batch and is marked `perceptual` then. `max_failed` is of the retried rows, `budget` of the whole run. Interrupted, the
same command goes on with what is still failed.

Without a condition every failed row is run again, permanent failures and refused prompts too: whoever asks has mended
something. ``error_class = 'transient'`` picks those that only time mends.

Not covered: shards that are not done yet, and rows that were not run; running the spec again does those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abstractvision_batch.execute.limits import FailureLimit
from abstractvision_batch.execute.progress import Progress, ProgressListener, ProgressTracker
from abstractvision_batch.job.load import Job
from abstractvision_batch.runs.columns import manifest_schema
from abstractvision_batch.runs.manifest import count_failed, list_parts, missing_shards
from abstractvision_batch.runs.named_requests import find_requests
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.record import require_same_layout
from abstractvision_batch.runs.row_filter import check_condition
from abstractvision_batch.runs.shard_rows import Retry, rows_to_run
from abstractvision_batch.verbs.execution import Ending, build_contexts, build_guard, run_on_executor
from abstractvision_batch.verbs.finish import RunResult, describe_result, finish_run
from abstractvision_batch.verbs.model_check import check_model, check_weights
from abstractvision_batch.verbs.reload import load_recorded


def retry(
    run: str | Path | Job | Run,
    *,
    where: str | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    trust: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: ProgressListener | None = None,
) -> RunResult:
    """Run failed rows again.

    Args:
        run: The run's folder or URL, whose `run.json` says how to run; or the spec that wrote it, which then says.
        where: A condition of SQL that failed rows must meet to be run again: ``error_class = 'transient'``.
        only: Ids of requests, or their first characters, that alone are run again where they failed.
        overrides: ``dotted.key=value`` strings for fields that change no pixel, as ``execution.actors=8``.
        trust: Use servers, secrets, programs and paths that the run recorded, though this user did not start it.
        storage_options: fsspec options of the run's store, over those of its spec.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: there is no run, the condition is wrong, or pixels would change.
        DependencyError: a model or a package is missing.
        StorageError: reading or writing failed; the same command again goes on.
        ClusterError: Ray failed; the same command again goes on.
    """
    clock = time.monotonic()
    opened = open_run(run, storage_options)
    job = load_recorded(run, opened, verb="a retry", overrides=overrides, trust=trust)
    require_same_layout(opened.record, job.spec, place=f"{opened.record.data['name']}: output.layout")
    if only:
        where = _of_these(find_requests(opened.store.open, opened.plan, only).ids, where)
    chosen = choose_rows(opened, where)
    tracker = ProgressTracker(Progress(requests=sum(chosen.values()), shards=len(chosen), phase="retry"), on_progress)
    ending = Ending()
    guard = build_guard(job, opened.plan, opened.counts, chosen)
    if chosen and not guard.admits(next(iter(chosen))):
        ending = Ending(stopped=guard.stopped)
    elif chosen:
        check_model(job)
        check_weights(job, opened.store)
        parts = list_parts(opened.store)
        again = Retry(parts={shard: tuple(parts[shard]) for shard in chosen}, where=where)
        work = build_contexts(job, opened.store, opened.plan, chosen, again, storage_options)
        limit = FailureLimit(job.spec.execution.max_failed, sum(chosen.values()))
        ending = run_on_executor(work, opened.store, tracker, limit, guard)
        if tracker.committed_rows == sum(chosen.values()):
            ending = Ending()
    record, counts = finish_run(opened.store, opened.record, tracker)
    return describe_result(opened.store, record, tracker, ending, counts, elapsed_s=time.monotonic() - clock)


def _of_these(ids: Sequence[str], where: str | None) -> str:
    listed = ", ".join(f"'{id_}'" for id_ in ids)
    # A line of its own, as a comment in the condition ends with it.
    return f"request_id IN ({listed})" + ("" if where is None else f" AND (\n{where}\n)")


def choose_rows(run: Run, where: str | None) -> dict[int, int]:
    """How many rows to run again, by shard, of those that have any.

    Raises:
        SpecError: the condition is wrong.
    """
    parts = list_parts(run.store)
    missing = set(missing_shards(run.plan, parts))
    failed = {shard: rows for shard, rows in count_failed(run.store, run.plan).items() if shard not in missing}
    if where is None:
        return failed
    check_condition(where, manifest_schema(run.plan.schema))  # wrong also where nothing failed
    again = Retry(parts={shard: tuple(parts[shard]) for shard in failed}, where=where)
    chosen = {shard: rows_to_run(run.store, run.plan, shard, again).table.num_rows for shard in failed}
    return {shard: rows for shard, rows in chosen.items() if rows}
