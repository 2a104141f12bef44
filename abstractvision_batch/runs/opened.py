"""Open a run that was started, on any storage: what it is, how far it is, its rows and its pictures.

Not covered: making a run (`verbs.run`), and runs below a folder (`runs.listing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.runs.columns import OK, manifest_schema, with_current_names
from abstractvision_batch.runs.counts import Counts, count_rows
from abstractvision_batch.runs.files import MANIFEST
from abstractvision_batch.runs.manifest import (
    MERGE_AGAIN,
    count_unfinished,
    is_merged,
    iter_rows,
    iter_shards,
    list_parts,
    mark_superseded,
    missing_shards,
)
from abstractvision_batch.runs.plan_rows import superseded_ids
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RunRecord, read_record
from abstractvision_batch.runs.row_files import open_picture, read_artifact
from abstractvision_batch.runs.row_filter import check_condition, filter_rows
from abstractvision_batch.storage.parquet import open_parquet
from abstractvision_batch.storage.store import Store, open_store
from abstractvision_batch.text.redaction import printable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run that was started, on any storage: what it is and how far it is.

    Everything but `spec`, `record` and `plan` is read when it is asked for, so a run that goes on can be looked at.
    """

    store: Store
    record: RunRecord

    @property
    def url(self) -> str:
        """Its folder or URL."""
        return self.store.url

    @property
    def spec(self) -> JobSpec:
        """The job that it is of, as it was checked."""
        return self.record.spec

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

    @property
    def counts(self) -> Counts:
        """The rows with a result so far, by outcome, counted on its storage."""
        return count_rows(self.store, self.plan)

    def table(self) -> pa.Table:
        """Every row that has a result: the merged manifest, or the parts so far."""
        if is_merged(self.store):
            with self.store.open(MANIFEST) as stream:
                rows = open_parquet(stream, name=self.store.url_of(MANIFEST), remedy=MERGE_AGAIN).read()
            return mark_superseded(with_current_names(rows), superseded_ids(self.store.open, self.plan))
        parts = {shard: attempts for shard, attempts in list_parts(self.store).items() if shard < self.plan.shards}
        tables = iter_shards(self.store, self.plan, parts)
        return pa.concat_tables([table.replace_schema_metadata(None) for table in tables])

    def to_pandas(self) -> pd.DataFrame:
        """`table` as a frame of pandas.

        Raises:
            OptionalDependencyMissingError: pandas is not installed.
        """
        return to_pandas(self.table())

    def images(self, where: str | None = None) -> Iterator[tuple[dict[str, Any], Image.Image]]:
        """Yield each row that succeeded with its picture: RGB or RGBA, of a video the first frame.

        Rows come in the order of the plan, from any layout, one row group at a time.

        Args:
            where: A condition over the manifest's columns, as ``steps > 20 AND prompt LIKE '%fox%'``.

        Raises:
            SpecError: the condition is wrong.
            StorageError: a picture is not there.
            GenerationError: a picture cannot be decoded.
        """
        if where is not None:
            check_condition(where, manifest_schema(self.plan.schema))  # wrong also where nothing succeeded
        for row in self._rows(where):
            yield row, open_picture(row, self.read_artifact)

    def _rows(self, where: str | None) -> Iterator[dict[str, Any]]:
        for table in iter_rows(self.store, plan=self.plan):
            made = table.filter(pc.field("status") == OK)
            yield from (made if where is None else filter_rows(made, where)).to_pylist()

    def __repr__(self) -> str:
        spec = self.spec
        made_by = f"{len(spec.variants)} variants" if spec.variants else spec.model
        return printable(f"<Run {spec.name}: {self.plan.requests:,} × {spec.task} of {made_by}, in {self.url}>")

    def _repr_html_(self) -> str:
        from abstractvision_batch.runs.run_html import describe_run

        return describe_run(self.record, self.url, self.counts, self._rows(None), self.read_artifact)

    def read_artifact(self, row: Mapping[str, Any]) -> bytes:
        """The picture or video of a row of the manifest, or of one of the `views` of its `metadata_json`.

        Raises:
            StorageError: it is not there.
        """
        return read_artifact(self.store, row)


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame of pandas.

    Raises:
        OptionalDependencyMissingError: pandas is not installed.
    """
    if find_spec("pandas") is None:
        raise OptionalDependencyMissingError("pandas is not installed (pip install pandas, or take table())")
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def open_run(run: str | Path | Job | Run, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Open a run for reading: its folder or URL, or the job that wrote it; one that is open stays it.

    Raises:
        SpecError: there is no run.
    """
    if isinstance(run, Run):
        return run
    store = run.open_output(storage_options) if isinstance(run, Job) else open_store(str(run), storage_options)
    record = read_record(store)
    if record is None:
        raise SpecError(
            f"{store.url}: no run here: there is no run.json (name the output.path of a run that was started)"
        )
    return Run(store, record)
