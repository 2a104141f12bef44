"""Manifest parts: which shards are done, how many rows failed, and all of them merged into one file.

A part's presence is the only record that a shard is done, so resume is the plan's shards minus the parts' numbers.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.errors import StorageError
from abstractvision_batch.plan.summary import PlanSummary
from abstractvision_batch.storage.store import Store

MANIFEST = "manifest.parquet"
PARTS = "manifest"
PART_NAME = re.compile(r"^(\d+)-a(\d+)\.parquet$")
#: Rows of one row group of the merged manifest: enough for a scan, little enough to hold.
ROW_GROUP_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows with a result, by outcome."""

    succeeded: int
    failed: int
    by_error_kind: dict[str, int]


def list_parts(store: Store) -> dict[int, list[int]]:
    """Attempts that left a part, oldest first, by shard."""
    parts: dict[int, list[int]] = {}
    for name in store.list(PARTS):
        if match := PART_NAME.match(name):
            parts.setdefault(int(match[1]), []).append(int(match[2]))
    return {shard: sorted(attempts) for shard, attempts in sorted(parts.items())}


def missing_shards(plan: PlanSummary, parts: dict[int, list[int]]) -> list[int]:
    """Shards of the plan that no part answers for, in order."""
    return [shard for shard in range(plan.shards) if shard not in parts]


def read_part(store: Store, shard: int, attempt: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, or some columns of it."""
    name = f"{PARTS}/{shard:05d}-a{attempt}.parquet"
    with store.open(name) as stream:
        try:
            return pq.ParquetFile(stream).read(columns=list(columns) if columns else None)
        except pa.ArrowInvalid as exc:
            raise StorageError(
                f"{store.url_of(name)}: {exc} (the part is damaged: delete it and run again, which redoes its shard)"
            ) from exc


def read_shard_rows(
    store: Store, shard: int, attempts: Sequence[int], columns: Sequence[str] | None = None
) -> pa.Table:
    """A shard's rows, each from the newest attempt that has it, in plan order."""
    if len(attempts) == 1:
        return read_part(store, shard, attempts[0], columns)
    wanted = None if columns is None else list(dict.fromkeys([*columns, "index", "attempt"]))
    table = pa.concat_tables([read_part(store, shard, attempt, wanted) for attempt in attempts])
    table = table.sort_by([("index", "ascending"), ("attempt", "ascending")])
    index = table["index"].to_pylist()
    newest = [position for position, value in enumerate(index) if index[position + 1 : position + 2] != [value]]
    return table.take(newest) if columns is None else table.take(newest).select(list(columns))


def iter_rows(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Every row that has a result, one shard at a time."""
    for shard, attempts in list_parts(store).items():
        yield read_shard_rows(store, shard, attempts, columns)


def count_rows(store: Store) -> RowCounts:
    """Count outcomes over the merged manifest where it is there, else over the parts."""
    statuses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for table in _status_tables(store):
        statuses.update(_value_counts(table["status"]))
        kinds.update(_value_counts(table["error_kind"]))
    return RowCounts(statuses["ok"], statuses["failed"], dict(sorted(kinds.items())))


def merged_rows(store: Store) -> int | None:
    """Rows of the merged manifest; None where there is none."""
    if not store.exists(MANIFEST):
        return None
    with store.open(MANIFEST) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def merge_manifest(store: Store, plan: PlanSummary) -> None:
    """Write `manifest.parquet`: every part's rows in plan order, exactly one per planned request.

    Raises:
        StorageError: the rows are not the plan's; nothing was written.
    """
    parts = list_parts(store)
    with tempfile.TemporaryDirectory(prefix="avbatch-") as folder:
        path = Path(folder) / MANIFEST
        written = _write_merged(path, (read_shard_rows(store, shard, parts[shard]) for shard in parts))
        if written != plan.requests:
            raise StorageError(f"{store.url_of(MANIFEST)}: {written} rows in the parts for {plan.requests} requests")
        store.put_file(MANIFEST, path)


def _write_merged(path: Path, tables: Iterator[pa.Table]) -> int:
    writer: Any = None
    written, waiting, waiting_rows = 0, [], 0
    try:
        for table in tables:
            waiting.append(table.replace_schema_metadata(None))
            waiting_rows += table.num_rows
            if writer is None:
                writer = pq.ParquetWriter(path, waiting[0].schema, compression="zstd")
            if waiting_rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                written, waiting, waiting_rows = written + waiting_rows, [], 0
        if writer is not None and waiting:
            writer.write_table(pa.concat_tables(waiting))
            written += waiting_rows
    finally:
        if writer is not None:
            writer.close()
    return written


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = {one["values"].as_py(): one["counts"].as_py() for one in column.value_counts()}
    return {value: count for value, count in counts.items() if value is not None}


def _status_tables(store: Store) -> Iterator[pa.Table]:
    columns = ["status", "error_kind"]
    if not store.exists(MANIFEST):
        yield from iter_rows(store, columns)
        return
    with store.open(MANIFEST) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(columns=columns):
            yield pa.Table.from_batches([batch])
