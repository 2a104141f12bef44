"""End an invocation: merge the parts, write the report, and say how the run stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from abstractvision_batch.errors import StorageError
from abstractvision_batch.execute.progress import ProgressTracker
from abstractvision_batch.report.gallery.writer import LATE_PICTURES, write_gallery
from abstractvision_batch.report.run_report import write_report
from abstractvision_batch.runs.counts import Counts, count_rows
from abstractvision_batch.runs.files import CONTACT_SHEET, GALLERY_PAGE, MANIFEST, README, RECORD
from abstractvision_batch.runs.layouts.shard_index import write_shard_index
from abstractvision_batch.runs.manifest import is_merged, list_parts, merge_manifest, missing_shards
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.record import RunRecord, read_record
from abstractvision_batch.storage.store import Store
from abstractvision_batch.verbs.execution import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(Counts):
    """How a run stands after an invocation, and what that did."""

    path: str
    run: Run = field(repr=False, compare=False, metadata={"json": False})
    """The run, opened: its rows and pictures."""
    generated: int
    """Rows that this invocation generated."""
    skipped: int
    """Rows that were done before."""
    elapsed_s: float
    interrupted: bool
    stopped: str | None
    """Why the run stopped by itself, before all was done."""
    manifest_path: str | None
    contact_sheet_path: str | None
    gallery_path: str | None
    """The page to look at the run with."""
    notes: dict[str, int]
    """Rows that this invocation generated and that have a note of each kind in `metadata_json`."""
    failed_of_asked: int | None = None
    """Rows that this invocation generated and that failed, where only some requests were asked for."""
    plan_notes: tuple[str, ...] = ()
    """What a person should know of its plan, one line each."""

    also_json: ClassVar[tuple[str, ...]] = (*Counts.also_json, "exit_code")

    def _repr_html_(self) -> str:
        return self.run._repr_html_()

    @property
    def complete(self) -> bool:
        """Whether every request has a result, and the manifest names it."""
        return not self.not_done and self.manifest_path is not None

    @property
    def incomplete_because(self) -> str | None:
        """Why a run that nobody stopped is not complete, in one line; None where it is, or somebody did."""
        if self.complete or self.interrupted or self.stopped or self.failed_of_asked is not None:
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
        reason, else 0. Where only some requests were asked for, those count.
        """
        if self.interrupted:
            return 130
        if self.stopped:
            return 1
        if self.failed_of_asked is not None:
            return 1 if self.failed_of_asked else 0
        return 4 if not self.complete else 1 if self.failed else 0


def finish_run(store: Store, record: RunRecord, tracker: ProgressTracker) -> tuple[RunRecord, Counts]:
    """Merge the parts and write the report once every shard is done. Returns the up-to-date record and row counts.

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
        return record, count_rows(store, record.plan)
    merged = is_merged(store)
    if not merged:
        tracker.on_phase("merge")
        if not merge(store, record):
            return record, count_rows(store, record.plan)
    if not merged or not store.exists(README):  # the report's last file
        if record.spec.output.gallery:
            tracker.on_phase("gallery")
            write_gallery(store, record, late_pictures=LATE_PICTURES)
        tracker.on_phase("report")
        write_report(store, record.data)
    return record, count_rows(store, record.plan)


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
    store: Store, record: RunRecord, tracker: ProgressTracker, ending: Ending, counts: Counts, *, elapsed_s: float
) -> RunResult:
    """Describe how the run stands, and what this invocation did."""
    return RunResult(
        **counts.values(),
        path=store.url,
        run=Run(store, record),
        generated=tracker.committed_rows,
        # Not below nothing: what this invocation committed may have been removed since.
        skipped=max(0, counts.succeeded + counts.failed + counts.superseded - tracker.committed_rows),
        elapsed_s=elapsed_s,
        interrupted=ending.interrupted,
        stopped=ending.stopped,
        manifest_path=store.url_of(MANIFEST) if store.exists(MANIFEST) else None,
        contact_sheet_path=store.url_of(CONTACT_SHEET) if store.exists(CONTACT_SHEET) else None,
        gallery_path=store.url_of(GALLERY_PAGE) if store.exists(GALLERY_PAGE) else None,
        notes=tracker.notes,
        plan_notes=record.plan.notes,
    )
