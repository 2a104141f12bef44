"""Row groups of a large Parquet file in a store, each from few reads, several of them in flight.

Arrow by itself reads a row group column by column, each a request of its own, or on threads that `parquet` rules out.
Where a column lies is known safely only of a file with a seal; others, of earlier versions, Arrow reads by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.object_reader import open_object
from abstractvision_batch.storage.parquet import Footer, open_parquet, parquet_errors
from abstractvision_batch.storage.store import Store

#: Columns no farther apart are read as one, in bytes.
GAP_BYTES = 1 << 18


def read_footer(store: Store, name: str, *, remedy: str | None = None) -> Footer:
    """What a Parquet file says of itself.

    Raises:
        DamagedFileError: it is damaged.
    """
    with store.open(name) as stream:
        return open_parquet(stream, name=store.url_of(name), remedy=remedy).footer


def iter_row_groups(
    store: Store,
    name: str,
    columns: Sequence[str] | None = None,
    *,
    footer: Footer | None = None,
    groups: Iterable[int] | None = None,
    remedy: str | None = None,
) -> Iterator[pa.Table]:
    """Tables of the file's row groups, or of some of them, in the order asked for.

    Args:
        store: Where the file is.
        name: Of the file.
        columns: Those to read; all by default.
        footer: Of the file, where it was read before.
        groups: Numbers of the row groups; all by default.
        remedy: What would fix a damaged file, for messages.

    Raises:
        DamagedFileError: the file is damaged.
    """
    known = footer or read_footer(store, name, remedy=remedy)
    where = store.url_of(name)
    wanted = range(known.metadata.num_row_groups) if groups is None else groups
    if not known.sealed:
        with store.open(name) as stream:
            file = open_parquet(stream, name=where, remedy=remedy, footer=known)
            yield from (file.read_row_group(group, columns) for group in wanted)
        return

    def read(group: int) -> list[tuple[int, bytes]]:
        with parquet_errors(where, remedy):
            spans = _spans(known.metadata.row_group(group), columns)
            return [(start, store.read_range(name, start, end - start)) for start, end in spans]

    for group, pieces in map_in_flight(wanted, read):
        yield open_parquet(_open_pieces(pieces), name=where, remedy=remedy, footer=known).read_row_group(group, columns)


def _spans(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> list[tuple[int, int]]:
    """Where the bytes of a row group's columns lie, near ones together.

    Raises:
        ValueError: somewhere that cannot be.
    """
    spans: list[tuple[int, int]] = []
    for number in range(group.num_columns):
        column = group.column(number)
        if columns is None or column.path_in_schema.split(".")[0] in columns:
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            if start < 0 or column.total_compressed_size < 0:
                raise ValueError(f"a column at byte {start:,}, {column.total_compressed_size:,} long")
            spans.append((start, start + column.total_compressed_size))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start - merged[-1][1] <= GAP_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _open_pieces(pieces: Sequence[tuple[int, bytes]]) -> BinaryIO:
    """A file of which there are only these pieces, by their offsets; what lies between them is never asked for."""
    starts = [start for start, _ in pieces]

    def read_range(start: int, end: int) -> bytes:
        at, data = pieces[max(0, bisect_right(starts, start) - 1)]
        return data[start - at : end - at] if start >= at else b""

    last, data = pieces[-1] if pieces else (0, b"")
    return open_object(last + len(data), read_range)
