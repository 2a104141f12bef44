"""Read a written plan: one shard, which is what a worker needs, or every row.

The caller brings `open_file`, so that a plan is read the same from a folder, a bucket or a test's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.errors import StorageError
from abstractvision_batch.parquet import open_parquet
from abstractvision_batch.plan.summary import PlanSummary


def read_shard(open_file: Callable[[str], BinaryIO], summary: PlanSummary, shard: int) -> pa.Table:
    """Rows of one shard, in plan order.

    Raises:
        StorageError: the file is not the plan that `summary` describes.
    """
    file = summary.file_of(shard)
    with open_file(file.name) as stream:
        try:
            return open_parquet(stream).read_row_group(shard - file.first_shard, use_threads=False)
        except (pa.ArrowInvalid, IndexError) as error:
            raise StorageError(
                f"{file.name}: shard {shard} cannot be read: {error} (the plan's file is damaged)"
            ) from error


def read_schema(open_file: Callable[[str], BinaryIO], summary: PlanSummary) -> pa.Schema:
    """Columns of the plan, the same in each of its files."""
    with open_file(summary.files[0].name) as stream:
        return pq.read_schema(stream)


def count_shard_rows(
    open_file: Callable[[str], BinaryIO], summary: PlanSummary, shards: Iterable[int]
) -> Iterator[int]:
    """Requests of each of `shards`, ascending; reads footers only, one per file."""
    footers: dict[str, pq.FileMetaData] = {}
    for shard in shards:
        file = summary.file_of(shard)
        if file.name not in footers:
            with open_file(file.name) as stream:
                footers = {file.name: pq.read_metadata(stream)}
        yield footers[file.name].row_group(shard - file.first_shard).num_rows


def iter_rows(open_file: Callable[[str], BinaryIO], summary: PlanSummary) -> Iterator[dict[str, Any]]:
    """Every row in plan order, holding one shard in memory at a time."""
    for shard in range(summary.shards):
        yield from read_shard(open_file, summary, shard).to_pylist()
