"""Open a run that was started, on any storage: what it is, how far it is, and what it made.

Not covered: making a run (`verbs.run`), and runs below a folder (`runs.listing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.runs.columns import with_current_names
from abstractvision_batch.runs.counts import Counts, count_rows
from abstractvision_batch.runs.manifest import (
    MANIFEST,
    MERGE_AGAIN,
    count_unfinished,
    is_merged,
    iter_shards,
    list_parts,
    mark_superseded,
    missing_shards,
)
from abstractvision_batch.runs.plan_rows import superseded_ids
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RunRecord, read_record
from abstractvision_batch.runs.row_files import read_artifact
from abstractvision_batch.storage.parquet import open_parquet
from abstractvision_batch.storage.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was started, on any storage: what it is and how far it is."""

    store: Store
    record: RunRecord

    @property
    def path(self) -> str:
        """Its folder or URL."""
        return self.store.url

    @property
    def plan(self) -> PlanSummary:
        """Its plan's counts and files."""
        return self.record.plan

    def missing_shards(self) -> list[int]:
        """Shards that left no manifest part yet."""
        return missing_shards(self.plan, list_parts(self.store))

    def unfinished_rows(self) -> dict[int, int]:
        """Rows that something kept from being run, by shard, of shards that left a part."""
        return count_unfinished(self.store, self.plan, list_parts(self.store))

    def counts(self) -> Counts:
        """Count the rows with a result so far, by outcome."""
        return count_rows(self.store, self.plan)

    def manifest(self) -> pa.Table:
        """Every row that has a result: the merged manifest, or the parts so far."""
        if is_merged(self.store):
            with self.store.open(MANIFEST) as stream:
                rows = open_parquet(stream, name=self.store.url_of(MANIFEST), remedy=MERGE_AGAIN).read()
            return mark_superseded(with_current_names(rows), superseded_ids(self.store.open, self.plan))
        parts = {shard: attempts for shard, attempts in list_parts(self.store).items() if shard < self.plan.shards}
        tables = iter_shards(self.store, self.plan, parts)
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def read_artifact(self, row: Mapping[str, Any]) -> bytes:
        """The picture or video of a row of the manifest, or of one of the `views` of its `metadata_json`.

        Raises:
            StorageError: it is not there.
        """
        return read_artifact(self.store, row)


def open_run(run: str | Path | Job, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Open a run for reading: its folder or URL, or the job that wrote it.

    Raises:
        SpecError: there is no run.
    """
    store = run.open_output(storage_options) if isinstance(run, Job) else open_store(str(run), storage_options)
    record = read_record(store)
    if record is None:
        raise SpecError(
            f"{store.url}: no run here: there is no run.json (name the output.path of a run that was started)"
        )
    return Run(store, record)
