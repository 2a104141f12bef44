"""Read a written plan: one shard, which is what a worker needs, or every row.

The caller brings `open_file`, so that a plan is read the same from a folder, a bucket or a test's memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.errors import DamagedFileError
from abstractvision_batch.parquet import ParquetReader, open_parquet
from abstractvision_batch.plan.summary import PlanFile, PlanSummary
from abstractvision_batch.storage.in_flight import map_in_flight

READ_WHOLE_BYTES = 1 << 26
#: What fixes a damaged plan: it is a pure function of the spec, so whoever misses its file makes it again.
REMEDY = "the plan's file: restore it, or delete it and run the spec again, which writes it again"
_BLOCK_BYTES = 1 << 20


def read_shard(open_file: Callable[[str], BinaryIO], summary: PlanSummary, shard: int) -> pa.Table:
    """Rows of one shard, in plan order.

    Raises:
        DamagedFileError: the file is not the plan that `summary` describes.
    """
    file = summary.file_of(shard)
    with open_file(file.name) as stream:
        return _open(stream, file).read_row_group(shard - file.first_shard)


def read_ids(open_file: Callable[[str], BinaryIO], file: PlanFile) -> Iterator[list[str]]:
    """Request ids of one file of a plan, a shard at a time.

    Raises:
        DamagedFileError: the file is damaged.
    """
    with open_file(file.name) as stream:
        # A file of 64 shards is a few megabytes: one request of an object store instead of one for each shard.
        source = io.BytesIO(stream.read()) if file.size_bytes <= READ_WHOLE_BYTES else stream
        rows = _open(source, file)
        for group in range(file.shards):
            ids = rows.read_row_group(group, ["request_id"])
            if ids.column_names != ["request_id"]:
                raise DamagedFileError(f"{file.name}: has no column request_id ({REMEDY})")
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
    digest = hashlib.sha256()
    with open_file(name) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def iter_rows(open_file: Callable[[str], BinaryIO], summary: PlanSummary) -> Iterator[dict[str, Any]]:
    """Every row in plan order, holding one shard in memory at a time."""
    for file in summary.files:
        for shard in range(file.first_shard, file.first_shard + file.shards):
            yield from read_shard(open_file, summary, shard).to_pylist()
