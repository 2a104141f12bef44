"""Manifest parts: which shards are done, how many rows failed, and all of them merged into one file.

A shard's first part (retry round 0) has every row of it: resume is the plan's shards minus those parts' numbers. Later
parts have rows that were retried; the newest of a row counts. Where something ended a shard early, rows of its first
part are `not_run`: a run is complete, and merged, once every shard has a part and no newest row is one of those.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.errors import DamagedFileError, StorageError
from abstractvision_batch.runs.columns import (
    EARLIER_ROUND,
    FAILED,
    NOT_RUN,
    OK,
    SUPERSEDED,
    fit_columns,
    manifest_schema,
    names_in_file,
    with_current_names,
)
from abstractvision_batch.runs.files import MANIFEST, PARTS
from abstractvision_batch.runs.plan_rows import superseded_ids
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.results import METADATA_KEY
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.parquet import Footer, ParquetReader, open_parquet, open_writer
from abstractvision_batch.storage.row_groups import iter_row_groups, read_footer
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.store import Store

PART_NAME = re.compile(r"^(\d+)-a(\d+)\.parquet$")
#: Rows of one row group of the merged manifest: enough for a scan, little enough to hold.
ROW_GROUP_ROWS = 16_384
#: Keys of the merged manifest's Parquet metadata: a digest of the names of the parts that it was merged of, and the
#: number of their shards.
PARTS_KEY = b"abstractvision_batch.parts"
SHARDS_KEY = b"abstractvision_batch.shards"
#: What fixes a damaged part, and a damaged merged manifest.
REDO = "avbatch audit --repair forgets its shard, and running the spec again redoes it"
MERGE_AGAIN = "avbatch audit --repair merges it again"
#: Columns without which nothing can be said of a row; every part of every version has them.
ESSENTIAL = (
    *("index", "request_id", "shard", "status", "retry_round", "attempts"),
    *("error_kind", "error_class", "cost_usd"),
)


def list_parts(store: Store) -> dict[int, list[int]]:
    """Return the retry rounds that left a part, oldest first, by shard."""
    parts: dict[int, list[int]] = {}
    for name in store.list(PARTS):
        if match := PART_NAME.match(name):
            parts.setdefault(int(match[1]), []).append(int(match[2]))
    return {shard: sorted(rounds) for shard, rounds in sorted(parts.items())}


def missing_shards(plan: PlanSummary, parts: dict[int, list[int]]) -> list[int]:
    """Shards of the plan that left no first part, in order."""
    return [shard for shard in range(plan.shards) if 0 not in parts.get(shard, ())]


def part_name(shard: int, retry_round: int) -> str:
    """Return the name of a manifest part; that of round 0 is there if the shard is done."""
    return f"{PARTS}/{shard:05d}-a{retry_round}.parquet"


def read_part(store: Store, shard: int, retry_round: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, or some columns of it."""
    name = part_name(shard, retry_round)
    return _parse_part(store, name, store.read(name), columns)


def read_shard_rows(store: Store, shard: int, rounds: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
    """Return a shard's rows, each from the newest round that has it, in plan order; none is marked superseded."""
    return _newest_rows(store, _read_parts(store, shard, rounds), columns)


def mark_superseded(table: pa.Table, superseded: Collection[str]) -> pa.Table:
    """The rows with another status where they did not succeed, and an extension's request took their place."""
    if not superseded:
        return table
    rows = zip(table["status"].to_pylist(), table["request_id"].to_pylist(), strict=True)
    marked = [SUPERSEDED if status != OK and request_id in superseded else status for status, request_id in rows]
    position = table.schema.get_field_index("status")
    return table.set_column(position, table.schema.field(position), pa.array(marked, pa.string()))


def iter_shards(store: Store, plan: PlanSummary, parts: dict[int, list[int]]) -> Iterator[pa.Table]:
    """Every row of shards that left parts, one shard at a time, all with the columns of the whole plan."""
    schema = manifest_schema(plan.schema)
    superseded = superseded_ids(store.open, plan)
    for _, found in map_in_flight(parts.items(), lambda part: _read_parts(store, *part)):
        yield mark_superseded(fit_columns(_newest_rows(store, found), schema), superseded)


def iter_rows(
    store: Store,
    columns: Sequence[str] | None = None,
    parts: dict[int, list[int]] | None = None,
    plan: PlanSummary | None = None,
) -> Iterator[pa.Table]:
    """Every row that has a result, some at a time: of the merged manifest where it is up to date, else of the parts.

    `parts` are those that `list_parts` found, so that rows and shards of a run that goes on are of one moment. With the
    run's `plan`, failed rows whose place others took have that status.
    """
    superseded = frozenset() if plan is None else superseded_ids(store.open, plan)
    if superseded and columns is not None:
        wanted = list(dict.fromkeys([*columns, "request_id", "status"]))
        for table in iter_rows(store, wanted, parts):
            yield mark_superseded(table, superseded).select(list(columns))
        return
    if superseded:
        yield from (mark_superseded(table, superseded) for table in iter_rows(store, None, parts))
        return
    parts = list_parts(store) if parts is None else parts
    if _is_merged_of(store, parts):
        yield from iter_merged(store, columns)
        return
    for _, found in map_in_flight(parts.items(), lambda part: _read_parts(store, *part)):
        yield _newest_rows(store, found, columns)


def iter_merged(
    store: Store,
    columns: Sequence[str] | None = None,
    *,
    footer: Footer | None = None,
    groups: Iterable[int] | None = None,
) -> Iterator[pa.Table]:
    """Yield the row groups of the merged manifest, or some of them and some of their columns.

    Raises:
        DamagedFileError: it is damaged.
    """
    footer = footer or read_footer(store, MANIFEST, remedy=MERGE_AGAIN)
    names = names_in_file(columns, footer.metadata.schema.to_arrow_schema())
    tables = iter_row_groups(store, MANIFEST, names, footer=footer, groups=groups, remedy=MERGE_AGAIN)
    return map(with_current_names, tables)


def count_failed(store: Store, plan: PlanSummary | None = None) -> dict[int, int]:
    """Failed rows of each shard that has any, in order."""
    counts: Counter[int] = Counter()
    for table in iter_rows(store, ["shard", "status"], plan=plan):
        counts.update(rows_by_shard(table, FAILED))
    return dict(sorted(counts.items()))


def count_unfinished(store: Store, plan: PlanSummary, parts: dict[int, list[int]]) -> dict[int, int]:
    """Rows that were not run of each shard that has any, in order; of those that left these `parts`, which are read.

    A manifest that is merged of all shards has none.
    """
    if merged_shards(store) == plan.shards and is_merged(store):
        return {}
    counts: Counter[int] = Counter()
    superseded = superseded_ids(store.open, plan)
    for _, found in map_in_flight(parts.items(), lambda part: _read_parts(store, *part)):
        rows = _newest_rows(store, found, ["shard", "request_id", "status"])
        counts.update(rows_by_shard(mark_superseded(rows, superseded), NOT_RUN))
    return dict(sorted(counts.items()))


def is_complete(store: Store, plan: PlanSummary) -> bool:
    """Whether every request has a result."""
    parts = list_parts(store)
    return not missing_shards(plan, parts) and not count_unfinished(store, plan, parts)


def is_merged(store: Store) -> bool:
    """Whether the merged manifest is there and is of the parts that are there now."""
    return _is_merged_of(store, list_parts(store))


def merged_shards(store: Store) -> int:
    """How many shards the merged manifest is of, from the first on; fewer than the plan's in a run that is extended."""
    shards = _merged_metadata(store).get(SHARDS_KEY, b"")
    return int(shards) if shards.isdigit() else 0


def merge_manifest(
    store: Store, plan: PlanSummary, *, before_put: Callable[[Path], object] = lambda path: None
) -> bool:
    """Write `manifest.parquet`: every part's rows in plan order, exactly one per planned request.

    Returns:
        False where rows were not run, so that the run is not complete; nothing was written then.

    Args:
        store: The run's.
        plan: The run's.
        before_put: Called with the merged file: what it writes in the store is there once the manifest is.

    Raises:
        StorageError: the rows are not the plan's; nothing was written.
    """
    # Parts of further shards are of an extension that another driver began, and not yet of this plan.
    parts = {shard: rounds for shard, rounds in list_parts(store).items() if shard < plan.shards}
    metadata = {PARTS_KEY: _parts_digest(parts), SHARDS_KEY: str(plan.shards).encode()}
    with scratch_folder() as folder:
        path = folder / MANIFEST
        written, complete = _write_merged(path, iter_shards(store, plan, parts), metadata)
        if written != plan.requests:
            raise StorageError(
                f"{store.url_of(MANIFEST)}: {written} rows in the parts for {plan.requests} requests "
                "(avbatch audit names those that are wrong)"
            )
        if complete:
            before_put(path)
            store.put(MANIFEST, path)
        return complete


def _read_parts(store: Store, shard: int, rounds: Sequence[int]) -> dict[str, bytes]:
    """A shard's parts by their names, the oldest first: whole, since each is small and a request is slow."""
    return {name: store.read(name) for name in (part_name(shard, number) for number in rounds)}


def _newest_rows(store: Store, parts: Mapping[str, bytes], columns: Sequence[str] | None = None) -> pa.Table:
    if len(parts) == 1:
        ((name, data),) = parts.items()
        return _parse_part(store, name, data, columns)
    wanted = None if columns is None else list(dict.fromkeys([*columns, "index", "retry_round"]))
    table = pa.concat_tables([_parse_part(store, name, data, wanted) for name, data in parts.items()])
    # An earlier version let a prompt dataset have a column `retry_round`.
    newer = EARLIER_ROUND if EARLIER_ROUND in table.column_names else "retry_round"
    table = table.sort_by([("index", "ascending"), (newer, "ascending")])
    index = table["index"].to_pylist()
    newest = [position for position, value in enumerate(index) if index[position + 1 : position + 2] != [value]]
    return table.take(newest) if columns is None else table.take(newest).select(list(columns))


def _parse_part(store: Store, name: str, data: bytes, columns: Sequence[str] | None) -> pa.Table:
    url = store.url_of(name)
    part = open_parquet(io.BytesIO(data), name=url, remedy=REDO)
    _require_own_part(part, name, url)
    return with_current_names(part.read(names_in_file(columns, part.schema)))


def _require_own_part(part: ParquetReader, name: str, url: str) -> None:
    """Refuse a file that is whole and not the part that its name says.

    Raises:
        DamagedFileError: it is another file.
    """
    match = PART_NAME.match(name.rpartition("/")[2])
    assert match is not None, name
    try:
        note = json.loads((part.metadata.metadata or {})[METADATA_KEY])
        own = (note["shard"], note["attempt"]) == (int(match[1]), int(match[2]))
    except (KeyError, TypeError, ValueError):
        own = False
    if lost := {*(names_in_file(ESSENTIAL, part.schema) or ())} - {*part.schema.names}:
        raise DamagedFileError(f"{url}: is damaged: it has no column {min(lost)} ({REDO})")
    if not own:
        raise DamagedFileError(f"{url}: is damaged: its content is that of another file ({REDO})")


def _write_merged(path: Path, tables: Iterator[pa.Table], metadata: dict[bytes, bytes]) -> tuple[int, bool]:
    """How many rows were written, and whether all of them have been run."""
    complete = True
    writer: Any = None
    written, waiting, waiting_rows = 0, [], 0
    try:
        for table in tables:
            waiting.append(table.replace_schema_metadata(None))
            waiting_rows += table.num_rows
            complete = complete and not rows_by_shard(table, NOT_RUN)
            if writer is None:
                writer = open_writer(path, waiting[0].schema, metadata)
            if waiting_rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                written, waiting, waiting_rows = written + waiting_rows, [], 0
        if writer is not None and waiting:
            writer.write_table(pa.concat_tables(waiting))
            written += waiting_rows
    finally:
        if writer is not None:
            writer.close()
    return written, complete


def _merged_metadata(store: Store) -> dict[bytes, bytes]:
    if not store.exists(MANIFEST):
        return {}
    try:
        return read_footer(store, MANIFEST).metadata.metadata or {}
    except DamagedFileError:
        return {}  # whoever needs it merges it again


def _is_merged_of(store: Store, parts: Mapping[int, Sequence[int]]) -> bool:
    return _merged_metadata(store).get(PARTS_KEY) == _parts_digest(parts)


def _parts_digest(parts: Mapping[int, Sequence[int]]) -> bytes:
    names = "\n".join(part_name(shard, number) for shard, rounds in parts.items() for number in rounds)
    return hashlib.sha256(names.encode()).hexdigest().encode()


def rows_by_shard(table: pa.Table, status: str) -> dict[int, int]:
    """Count the rows with a status, by shard."""
    return count_values(table.filter(pc.field("status") == status)["shard"])


def count_values(column: pa.ChunkedArray) -> dict[Any, int]:
    """Count the values of a column, without its nulls."""
    counts = {one["values"].as_py(): one["counts"].as_py() for one in column.value_counts()}
    return {value: count for value, count in counts.items() if value is not None}
