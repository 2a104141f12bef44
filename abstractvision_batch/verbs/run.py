"""`avbatch run`: from a job spec to a finished dataset, top to bottom, one call per arrow of the design.

    spec.yaml → load and check → plan → execute → merge → report

Running the same spec again is how a run resumes: shards that left a manifest part are done, and only the others run.
A spec that grew extends the run when it is asked to: its plan gets further shards, and those are the others.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    RunStoppedError,
    SpecError,
    StorageError,
)
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.executors import run_shards
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.limits import FailureLimit
from abstractvision_batch.execute.progress import Progress, ProgressListener, ProgressTracker
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.job.env import resolve_options
from abstractvision_batch.job.load import LoadedSpec
from abstractvision_batch.job.prices import find_price
from abstractvision_batch.prompts.signed_images import find_signed_images
from abstractvision_batch.report.run_report import CONTACT_SHEET, README, write_report
from abstractvision_batch.runs.columns import NOT_RUN
from abstractvision_batch.runs.layouts.shard_index import write_shard_index
from abstractvision_batch.runs.manifest import (
    MANIFEST,
    NO_ROWS,
    RowCounts,
    count_rows,
    count_unfinished,
    is_complete,
    is_merged,
    list_parts,
    merge_manifest,
    merged_shards,
    missing_shards,
)
from abstractvision_batch.runs.plan_rows import count_shard_rows
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RECORD, RunRecord, read_record
from abstractvision_batch.runs.shard_rows import Retry
from abstractvision_batch.storage.store import Store
from abstractvision_batch.verbs.model_check import check_model
from abstractvision_batch.verbs.start import as_begun, load, open_output, start_run, take_back_run


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run stands after an invocation."""

    path: str
    requests: int
    succeeded: int
    failed: int
    superseded: int
    """Failed rows whose place requests of an extension took."""
    generated: int
    """Rows that this invocation generated."""
    skipped: int
    """Rows that were done before."""
    elapsed_s: float
    by_error_kind: dict[str, int]
    by_error_class: dict[str, int]
    attempts: int
    """Tries of all rows, in all invocations."""
    cost_usd: float | None
    """Of those tries; None where nothing says what a request costs."""
    interrupted: bool
    stopped: str | None
    """Why the run stopped by itself, before all was done."""
    manifest_path: str | None
    contact_sheet_path: str | None
    notes: dict[str, int]
    """Rows that this invocation generated and that have a note of each kind in `metadata_json`."""
    plan_notes: tuple[str, ...] = ()
    """What a person should know of its plan, one line each."""

    @property
    def not_done(self) -> int:
        """Requests without a result."""
        return max(0, self.requests - self.succeeded - self.failed - self.superseded)

    @property
    def complete(self) -> bool:
        """Whether every request has a result, and the manifest names it."""
        return not self.not_done and self.manifest_path is not None

    @property
    def incomplete_because(self) -> str | None:
        """Why a run that nobody stopped is not complete, in one line; None where it is, or somebody did."""
        if self.complete or self.interrupted or self.stopped:
            return None
        if self.not_done:
            lost = f"{self.not_done:,} of {self.requests:,} requests have no result"
        else:
            lost = "its manifest.parquet was removed"
        return (
            f"{self.path}: not complete: {lost}, as if something removed files of the run, extended it, or listed them "
            "late (run the job again, which does what is missing)"
        )

    @property
    def exit_code(self) -> int:
        """What the command line exits with.

        130 for an interrupt, 1 where rows failed or a limit stopped the run, 4 where it is not complete for another
        reason, else 0.
        """
        if self.interrupted:
            return 130
        if self.stopped:
            return 1
        return 4 if not self.complete else 1 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "not_done": self.not_done, "exit_code": self.exit_code}


@dataclass(frozen=True, slots=True)
class Ending:
    """What ended an invocation before all was done; nothing by default."""

    interrupted: bool = False
    stopped: str | None = None

    @property
    def early(self) -> bool:
        """Whether anything did."""
        return self.interrupted or self.stopped is not None


def run(
    spec: str | Path | Mapping[str, Any] | LoadedSpec,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    scheduled_at: datetime | None = None,
    extend: bool = False,
    on_progress: ProgressListener | None = None,
) -> RunResult:
    """Run a job, or what is left of it.

    Args:
        spec: Path of a YAML file, a mapping of the same content, or what `load_spec` returned.
        overrides: ``dotted.key=value`` strings, as of ``--set``.
        registry_paths: More folders of model cards.
        scheduled_at: What time fields of the spec stand for, with the timezone that they are of.
        extend: If the output holds a run of fewer prompts, samples or matrix points, add what is missing.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: the spec is wrong, or its output holds another run, or one that it does more than extend.
        DependencyError: a model or a package is missing.
        StorageError: reading or writing failed; running again resumes.
        ClusterError: Ray failed; running again resumes.
    """
    clock = time.monotonic()
    loaded = load(spec, overrides=overrides, registry_paths=registry_paths, scheduled_at=scheduled_at)
    store = open_output(loaded)
    new = not store.exists(RECORD)
    record = start_run(loaded, store, extend=extend)
    loaded = as_begun(loaded, record)
    try:
        tracker, ending = execute(loaded, store, record.plan, on_progress)
    except (SpecError, CapabilityNotSupportedError, DependencyError):
        if new:
            take_back_run(store, record)
        raise
    record, counts = finish_run(store, record, tracker)
    return describe_result(store, record, tracker, ending, counts, elapsed_s=time.monotonic() - clock)


def execute(
    loaded: LoadedSpec, store: Store, plan: PlanSummary, on_progress: ProgressListener | None
) -> tuple[ProgressTracker, Ending]:
    """Run the shards that left no part, then the rows that were not run; what was done, and what ended it early."""
    started = time.monotonic()
    # Asked before the parts: what is merged later is another driver's of this run, and whole.
    merged_before = merged_shards(store)
    parts = list_parts(store)
    missing = missing_shards(plan, parts)
    rows = dict(zip(missing, count_shard_rows(store.open, plan, missing), strict=True))
    done = plan.shards - len(missing)
    skipped = plan.requests - sum(rows.values())
    tracker = ProgressTracker(
        Progress(requests=plan.requests, skipped=skipped, shards=plan.shards, shards_done=done), on_progress
    )
    ending = Ending()
    if missing:
        if missing[0] < merged_before:
            store.delete(MANIFEST)  # of parts that were lost since; not that of before an extension
        ending = _run_rows(loaded, store, plan, rows, tracker, started=started)
    # Rows that were not run are looked for last, in parts of earlier invocations: reading all of those takes a while.
    if not ending.early and (left := count_unfinished(store, plan, parts)):
        tracker.take_up(sum(left.values()), shards=len(left))
        again = Retry(parts={shard: tuple(parts[shard]) for shard in left}, status=NOT_RUN)
        ending = _run_rows(loaded, store, plan, left, tracker, again, started=started)
    if ending.early and is_complete(store, plan):
        ending = Ending()
    return tracker, ending


def _run_rows(
    loaded: LoadedSpec,
    store: Store,
    plan: PlanSummary,
    rows: Mapping[int, int],
    tracker: ProgressTracker,
    retry: Retry | None = None,
    *,
    started: float,
) -> Ending:
    """Run so many rows of these shards, within the limits of the whole run."""
    execution = loaded.spec.execution
    # Reads every part, so only where a limit asks for it.
    before = count_rows(store, plan=plan) if execution.max_failed is not None or execution.budget.counts else NO_ROWS
    limit = FailureLimit(execution.max_failed, plan.requests, before.failed - tracker.failed_rows)
    guard = build_guard(loaded, before, rows, started=started)
    failed = tracker.failed_rows
    if limit.reached(failed) or not guard.admits(next(iter(rows))):
        return Ending(stopped=limit.message(failed) if limit.reached(failed) else guard.stopped)
    check_model(loaded)
    return run_on_executor(build_context(loaded, store, plan, retry), list(rows), tracker, limit, guard)


def build_guard(
    loaded: LoadedSpec, before: RowCounts, rows: Mapping[int, int], *, started: float | None = None
) -> SpendingGuard:
    """What may be spent on shards of so many `rows`, after what the manifest says was spent `before`.

    The invocation `started` at this time of the monotonic clock, by default now.
    """
    price = find_price(loaded.spec, loaded.card)
    return SpendingGuard(loaded.spec.execution, price=price, spent=before, rows=rows, started=started)


def build_context(
    loaded: LoadedSpec,
    store: Store,
    plan: PlanSummary,
    retry: Retry | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RunContext:
    """What workers are told; `storage_options` of the store go over those of the spec."""
    backend = loaded.backend
    if isinstance(backend, OpenAIBackendSpec) and loaded.spec.execution.budget.counts:
        backend = backend.model_copy(update={"repeat_unanswered": False})  # else a try might be billed twice
    execution = loaded.spec.execution
    secrets = execution.runtime_env.secrets() if execution.executor == "ray" else {}
    return RunContext(
        url=store.url,
        spec=loaded.spec,
        backend=backend,
        card=loaded.card,
        plan=plan,
        store_options=resolve_options(
            loaded.spec.output.storage_options, "output.storage_options", given=storage_options
        ),
        prompt_options=resolve_options(loaded.spec.prompts.storage_options, "prompts.storage_options"),
        signed_images=find_signed_images(loaded) if plan.signed_images else {},
        environ=resolve_options(secrets, "execution.runtime_env.env_vars"),
        retry=retry,
    )


def run_on_executor(
    context: RunContext,
    shards: Sequence[int],
    tracker: ProgressTracker,
    limit: FailureLimit,
    guard: SpendingGuard,
) -> Ending:
    """Run shards until they are done, an interrupt ends it, too many rows failed, or the budget is used up."""
    with Interrupts(context.spec.execution.drain_timeout_s) as interrupts:

        def stop_if_too_many_fail(now: Progress) -> None:
            if limit.reached(now.failed):
                interrupts.drain()

        tracker.add_listener(stop_if_too_many_fail)
        stopped: str | None = None
        try:
            run_shards(
                context, shards, interrupts=interrupts, guard=guard, on_rows=tracker.on_rows, on_shard=tracker.on_shard
            )
        except RunStoppedError as error:
            stopped = str(error)
    failed = tracker.failed_rows
    if stopped is None:
        stopped = limit.message(failed) if limit.reached(failed) else guard.stopped
    return Ending(interrupts.interrupted, stopped)


def finish_run(store: Store, record: RunRecord, tracker: ProgressTracker) -> tuple[RunRecord, RowCounts]:
    """Merge the parts and write the report once every shard is done; the run and the counts of what is there.

    Another driver may have extended the run meanwhile: then it is not done. Nor is it where parts were lost.

    Raises:
        StorageError: the run's record was removed, or something cannot be read or written.
    """
    there = read_record(store)
    if there is None:
        raise StorageError(
            f"{store.url_of(RECORD)}: was removed while the run went on (run the spec again, which writes it again)"
        )
    record = there
    if missing_shards(record.plan, list_parts(store)):
        return record, count_rows(store, plan=record.plan)
    merged = is_merged(store)
    if not merged:
        tracker.on_phase("merge")
        if not merge(store, record):
            return record, count_rows(store, plan=record.plan)
    if not merged or not store.exists(README):  # the report's last file
        tracker.on_phase("report")
        write_report(store, record.data)
    return record, count_rows(store, plan=record.plan)


def merge(store: Store, record: RunRecord) -> bool:
    """Write what names everything that the shards left: the manifest, and the index of tars where there are any.

    The report of what was merged before is taken back first: a crash on the way leaves a run without README, which says
    that the report is still to be written.

    Returns:
        False where rows were not run, so that the run is not complete; nothing was written then.
    """

    def publish(manifest: Path) -> None:
        store.delete(README)
        if record.layout == "webdataset":
            write_shard_index(store, record.data["name"], manifest)

    return merge_manifest(store, record.plan, before_put=publish)


def describe_result(
    store: Store, record: RunRecord, tracker: ProgressTracker, ending: Ending, counts: RowCounts, *, elapsed_s: float
) -> RunResult:
    """How the run stands, and what this invocation did of it."""
    return RunResult(
        path=store.url,
        requests=record.plan.requests,
        succeeded=counts.succeeded,
        failed=counts.failed,
        superseded=counts.superseded,
        generated=tracker.committed_rows,
        # Not below nothing: what this invocation committed may have been removed since.
        skipped=max(0, counts.succeeded + counts.failed + counts.superseded - tracker.committed_rows),
        elapsed_s=elapsed_s,
        by_error_kind=counts.by_error_kind,
        by_error_class=counts.by_error_class,
        attempts=counts.attempts,
        cost_usd=counts.cost_usd,
        interrupted=ending.interrupted,
        stopped=ending.stopped,
        manifest_path=store.url_of(MANIFEST) if store.exists(MANIFEST) else None,
        contact_sheet_path=store.url_of(CONTACT_SHEET) if store.exists(CONTACT_SHEET) else None,
        notes=tracker.notes,
        plan_notes=record.plan.notes,
    )
