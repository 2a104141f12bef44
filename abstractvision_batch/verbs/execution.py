"""Run the shards of a plan that are to be run, within the limits of the whole run.

    context for the workers → executor → rows, until all are done or something ends it early

Not covered: which shards are on storage already (`runs.manifest`), what runs them (`execute`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abstractvision_batch.errors import RunStoppedError
from abstractvision_batch.execute.context import RunContext, Variants
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.executor_choice import choose_executor
from abstractvision_batch.execute.executors import run_shards
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.limits import FailureLimit
from abstractvision_batch.execute.progress import Progress, ProgressListener, ProgressTracker
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.job.env import resolve_options
from abstractvision_batch.job.load import Job
from abstractvision_batch.plan.build import planned_batch_size
from abstractvision_batch.prompts.signed_images import find_signed_images
from abstractvision_batch.runs.columns import NOT_RUN
from abstractvision_batch.runs.counts import Counts, count_rows
from abstractvision_batch.runs.files import MANIFEST
from abstractvision_batch.runs.manifest import count_unfinished, is_complete, list_parts, merged_shards, missing_shards
from abstractvision_batch.runs.plan_rows import count_shard_rows
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import note_executor
from abstractvision_batch.runs.shard_rows import Batches, Retry, rows_to_run
from abstractvision_batch.storage.store import Store
from abstractvision_batch.verbs.model_check import check_model


@dataclass(frozen=True, slots=True)
class Ending:
    """What ended an invocation before all was done; nothing by default."""

    interrupted: bool = False
    stopped: str | None = None

    @property
    def early(self) -> bool:
        """Whether anything did."""
        return self.interrupted or self.stopped is not None


def execute(
    job: Job, store: Store, plan: PlanSummary, on_progress: ProgressListener | None, only: Batches | None = None
) -> tuple[ProgressTracker, Ending]:
    """Run the unfinished shards, then the rows that were not run; with `only`, the batches of it alone.

    Returns:
        The tracker, and why the run stopped early, if it did.
    """
    started = time.monotonic()
    # Asked before the parts: what is merged later is another driver's of this run, and whole.
    merged_before = merged_shards(store)
    parts = list_parts(store)
    missing = missing_shards(plan, parts)
    if only is None:
        rows = dict(zip(missing, count_shard_rows(store.open, plan, missing), strict=True))
        done, skipped = plan.shards - len(missing), plan.requests - sum(rows.values())
        begun = Progress(requests=plan.requests, skipped=skipped, shards=plan.shards, shards_done=done)
    else:
        missing = [shard for shard in missing if shard in only]
        rows = {shard: rows_to_run(store, plan, shard, None, only).chosen.num_rows for shard in missing}
        begun = Progress(requests=sum(rows.values()), shards=len(rows))
    tracker = ProgressTracker(begun, on_progress)
    ending = Ending()
    if missing:
        if missing[0] < merged_before:
            # It covers parts that were deleted since; an older manifest of an extended run is kept.
            store.delete(MANIFEST)
        ending = _run_rows(job, store, plan, rows, tracker, only=only, started=started)
    # Rows that were not run are looked for last, in parts of earlier invocations: reading all of those takes a while.
    if not ending.early and (left := count_unfinished(store, plan, parts)):
        again = Retry(parts={shard: tuple(parts[shard]) for shard in left}, status=NOT_RUN)
        if only is not None:
            asked = {shard: rows_to_run(store, plan, shard, again, only).chosen.num_rows for shard in left}
            left = {shard: count for shard, count in asked.items() if count}
        tracker.take_up(sum(left.values()), shards=len(left))
        if left:
            ending = _run_rows(job, store, plan, left, tracker, again, only=only, started=started)
    if ending.early and is_complete(store, plan):
        ending = Ending()
    return tracker, ending


def _run_rows(
    job: Job,
    store: Store,
    plan: PlanSummary,
    rows: Mapping[int, int],
    tracker: ProgressTracker,
    retry: Retry | None = None,
    *,
    only: Batches | None,
    started: float,
) -> Ending:
    """Run this many rows of these shards, within the limits of the whole run."""
    execution = job.spec.execution
    # Reads every part, so only where a limit asks for it.
    before = count_rows(store, plan) if execution.max_failed is not None or execution.budget.counts else Counts()
    limit = FailureLimit(execution.max_failed, plan.requests, before.failed - tracker.failed_rows)
    guard = build_guard(job, plan, before, rows, started=started)
    failed = tracker.failed_rows
    if limit.reached(failed) or not guard.admits(next(iter(rows))):
        return Ending(stopped=limit.message(failed) if limit.reached(failed) else guard.stopped)
    check_model(job)
    contexts = [
        (replace(context, only=only), shards) for context, shards in build_contexts(job, store, plan, rows, retry)
    ]
    return run_on_executor(contexts, store, tracker, limit, guard)


def build_contexts(
    job: Job,
    store: Store,
    plan: PlanSummary,
    shards: Iterable[int],
    retry: Retry | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[tuple[RunContext, list[int]]]:
    """Build the workers' context of each variant that has any of the shards, with those, in the order of the plan."""
    by_variant = plan.by_variant(shards)
    return [
        (build_context(job.variant_named(name), store, plan, retry, storage_options), own)
        for name, own in by_variant.items()
    ]


def build_guard(
    job: Job, plan: PlanSummary, before: Counts, rows: Mapping[int, int], *, started: float | None = None
) -> SpendingGuard:
    """What may be spent on shards of so many `rows`, after what the manifest says was spent `before`.

    The invocation `started` at this time of the monotonic clock, by default now.
    """
    prices = [variant.spec.backend.find_price(variant.card) for variant in job.variants]
    dearest = max((price for price in prices if price is not None), key=lambda price: price.request_usd, default=None)
    by_name = {variant.variant: price for variant, price in zip(job.variants, prices, strict=True)}
    return SpendingGuard(
        job.spec.execution,
        price=dearest,
        spent=before,
        rows=rows,
        started=started,
        price_of=lambda shard: by_name[plan.file_of(shard).variant],
    )


def build_context(
    job: Job,
    store: Store,
    plan: PlanSummary,
    retry: Retry | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RunContext:
    """Build the workers' context of a job without variants, or of one. `storage_options` override the spec's."""
    execution = job.spec.execution
    backend = job.backend.without_repeats() if execution.budget.counts else job.backend
    choice = choose_executor(*job.specs)
    secrets = execution.runtime_env.secrets() if choice.executor == "ray" else {}
    return RunContext(
        url=store.url,
        spec=job.spec,
        backend=backend,
        card=job.card,
        plan=plan if job.variant is None else replace(plan, batch_size=planned_batch_size(job)),
        model_folder=job.model_folder,
        store_options=job.output_options(storage_options),
        prompt_options=job.prompt_options(),
        signed_images=find_signed_images(job) if plan.signed_images else {},
        environ=resolve_options(secrets, "execution.runtime_env.env_vars"),
        choice=choice,
        retry=retry,
        variant=job.variant,
    )


def run_on_executor(
    variants: Variants,
    store: Store,
    tracker: ProgressTracker,
    limit: FailureLimit,
    guard: SpendingGuard,
) -> Ending:
    """Run shards of variants until they are done, an interrupt or a limit ends it, or the budget is used up."""
    first = variants[0][0]
    tracker.on_executor(first.choice)
    note_executor(store, asdict(first.choice))
    with Interrupts(first.spec.execution.drain_timeout_s) as interrupts:

        def stop_if_too_many_fail(now: Progress) -> None:
            if limit.reached(now.failed):
                interrupts.drain()

        tracker.add_listener(stop_if_too_many_fail)
        stopped: str | None = None
        try:
            run_shards(variants, Control(interrupts, guard, tracker.on_rows, tracker.on_shard))
        except RunStoppedError as error:
            stopped = str(error)
    failed = tracker.failed_rows
    if stopped is None:
        stopped = limit.message(failed) if limit.reached(failed) else guard.stopped
    return Ending(interrupts.interrupted, stopped)
