"""Read a written plan: one shard, which is what a worker needs, or every row.

The caller brings `open_file`, so that a plan is read the same from a folder, a bucket or a test's memory.

No row is used before its file has the sha256 that `run.json` says. A file holds 64 shards and is read whole for each of
them, so that what was hashed is what is parsed: of 64 shards of 256 prompts of 270 characters that is 1.2 MB, 0.8 ms of
hashing and a request of an object store less than by parts (2-core Debian 12, 2026-11). One that is larger than
`READ_WHOLE_BYTES` is hashed once per process, and then read by parts. Footers, of which rows are counted to be shown,
are not hashed.

Plans of extensions may say which requests others took the place of, in the column `supersedes`.

Not covered: which requests supersede which (`plan.supersede`), and how their rows read (`runs.manifest`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abstractvision_batch.errors import DamagedFileError
from abstractvision_batch.runs.columns import PLAN_FORMAT, REQUEST_ID_DIGITS, fixed_columns
from abstractvision_batch.runs.plan_summary import PlanFile, PlanSummary
from abstractvision_batch.storage.file_hashes import hash_stream
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.parquet import ParquetReader, open_parquet

READ_WHOLE_BYTES = 1 << 26
#: What fixes a damaged plan: it is a pure function of the spec, so whoever misses its file makes it again.
REMEDY = "the plan's file: restore it, or delete it and run the spec again, which writes it again"
_ID_PATTERN = rf"\A[0-9a-f]{{{REQUEST_ID_DIGITS}}}\z"
#: What no row of any plan lacks.
_KEYS = ("index", "request_id", "shard", "batch_id", "batch_slot", "batch_size", "task")


def read_shard(open_file: Callable[[str], BinaryIO], summary: PlanSummary, shard: int) -> pa.Table:
    """Rows of one shard, in plan order.

    Raises:
        DamagedFileError: the file is not the plan that `summary` describes.
    """
    file = summary.file_of(shard)
    with _open_checked(open_file, file) as stream:
        return _read_group(stream, file, shard)


def read_ids(open_file: Callable[[str], BinaryIO], file: PlanFile) -> Iterator[list[str]]:
    """Request ids of one file of a plan, a shard at a time.

    Raises:
        DamagedFileError: the file is damaged.
    """
    with _open_checked(open_file, file) as stream:
        rows = _open(stream, file)
        for group in range(file.shards):
            ids = rows.read_row_group(group, ["request_id"])
            _require_ids(file, ids)
            yield ids.column(0).to_pylist()


def count_shard_rows(
    open_file: Callable[[str], BinaryIO], summary: PlanSummary, shards: Iterable[int]
) -> Iterator[int]:
    """Requests of each of `shards`, ascending; reads footers only, one per file.

    Raises:
        DamagedFileError: a file is damaged.
    """

    def read_footer(wanted: tuple[PlanFile, list[int]]) -> pq.FileMetaData:
        with open_file(wanted[0].name) as stream:
            footer = _open(stream, wanted[0]).metadata
        if footer.num_row_groups != wanted[0].shards:
            raise DamagedFileError(
                f"{wanted[0].name}: {footer.num_row_groups:,} row groups in place of {wanted[0].shards:,} ({REMEDY})"
            )
        return footer

    by_file = ((file, list(group)) for file, group in groupby(shards, key=summary.file_of))
    for (file, wanted), footer in map_in_flight(by_file, read_footer):
        for shard in wanted:
            yield footer.row_group(shard - file.first_shard).num_rows


def _open(source: BinaryIO, file: PlanFile) -> ParquetReader:
    return open_parquet(source, name=file.name, remedy=REMEDY)


def hash_file(open_file: Callable[[str], BinaryIO], name: str) -> str:
    """SHA-256 of a plan's file as it is stored, in hex digits."""
    with open_file(name) as stream:
        return hash_stream(stream)


def iter_rows(open_file: Callable[[str], BinaryIO], summary: PlanSummary) -> Iterator[dict[str, Any]]:
    """Every row in plan order, holding one shard in memory at a time."""
    for file in summary.files:
        with _open_checked(open_file, file) as stream:
            for shard in range(file.first_shard, file.first_shard + file.shards):
                yield from _read_group(stream, file, shard).to_pylist()


def require_plan_file(file: PlanFile, sha256: str) -> None:
    """Refuse a file of a plan with another hash than `run.json` says.

    Raises:
        DamagedFileError: it has another one.
    """
    if sha256 != file.sha256:
        raise _damaged(file, "is damaged: another sha256 than run.json says")


def _open_checked(open_file: Callable[[str], BinaryIO], file: PlanFile) -> BinaryIO:
    if file.size_bytes > READ_WHOLE_BYTES:
        _check_large(open_file, file)
        return open_file(file.name)
    with open_file(file.name) as stream:
        data = stream.read(file.size_bytes + 1)
    require_plan_file(file, hashlib.sha256(data).hexdigest())
    return io.BytesIO(data)


@lru_cache(maxsize=1024)
def _check_large(open_file: Callable[[str], BinaryIO], file: PlanFile) -> None:
    """Hash a file once per process: `open_file` is a method of the worker's one store."""
    require_plan_file(file, hash_file(open_file, file.name))


def _read_group(stream: BinaryIO, file: PlanFile, shard: int) -> pa.Table:
    rows = _open(stream, file).read_row_group(shard - file.first_shard)
    _require_rows(file, shard, rows)
    return rows


def _require_rows(file: PlanFile, shard: int, rows: pa.Table) -> None:
    """Refuse rows that no plan of ours has: of a stranger's run, the hash is his too."""
    there = {field.name: field.type for field in rows.schema}
    for name, types in _types_by_column().items():
        if name not in there and name in _KEYS:
            raise _damaged(file, f"has no column {name}")
        if name in there and there[name] not in types:
            raise _damaged(file, f"column {name} is {there[name]}, not {' or '.join(map(str, types))}")
    if any(rows[name].null_count for name in _KEYS):
        raise _damaged(file, f"shard {shard} has a row without {', '.join(_KEYS)}")
    if pc.unique(rows["shard"]).to_pylist() != [shard]:
        raise _damaged(file, f"shard {shard} has rows of another")
    _require_ids(file, rows)


@cache
def _types_by_column() -> dict[str, list[pa.DataType]]:
    """The types that each fixed column has in a plan of one format or another."""
    types: dict[str, list[pa.DataType]] = {}
    for format in range(1, PLAN_FORMAT + 1):
        for field in fixed_columns(format):
            known = types.setdefault(field.name, [])
            if field.type not in known:
                known.append(field.type)
    return types


def _require_ids(file: PlanFile, rows: pa.Table) -> None:
    """Names of files are made of the ids."""
    if "request_id" not in rows.schema.names:
        raise _damaged(file, "has no column request_id")
    ids = rows["request_id"]
    if ids.type != pa.string() or ids.null_count or not pc.all(pc.match_substring_regex(ids, _ID_PATTERN)).as_py():
        raise _damaged(file, f"a request id is not {REQUEST_ID_DIGITS} hex digits")


def _damaged(file: PlanFile, said: str) -> DamagedFileError:
    return DamagedFileError(f"{file.name}: {said} ({REMEDY})")


#: The column of an extension's plan: the id of the request whose place a request takes, if it takes one.
SUPERSEDES = "supersedes"


def superseded_ids(open_file: Callable[[str], BinaryIO], plan: PlanSummary) -> frozenset[str]:
    """Return the ids of the requests of a plan whose place others took."""

    def read(name: str) -> list[str | None]:
        with open_file(name) as stream, open_parquet(stream, name=name) as file:
            found: list[str | None] = file.read([SUPERSEDES]).column(0).to_pylist()
            return found

    return frozenset(old for _, ids in map_in_flight(plan.superseding, read) for old in ids if old is not None)
