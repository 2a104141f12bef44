"""Row groups of a large Parquet file in a store, each from few reads, several of them in flight.

Arrow by itself reads a row group column by column, each a request of its own, or on threads that `parquet` rules out.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.parquet import open_parquet
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.store import Store

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Columns no farther apart are read as one, in bytes.
GAP_BYTES = 1 << 18


def read_footer(store: Store, name: str) -> pq.FileMetaData:
    """What a Parquet file says of itself.

    Raises:
        pyarrow.ArrowInvalid: it is damaged.
    """
    with store.open(name) as stream:
        return pq.read_metadata(stream)


def iter_row_groups(
    store: Store,
    name: str,
    columns: Sequence[str] | None = None,
    *,
    footer: pq.FileMetaData | None = None,
    groups: Iterable[int] | None = None,
) -> Iterator[pa.Table]:
    """Tables of the file's row groups, or of some of them, in the order asked for.

    Args:
        store: Where the file is.
        name: Of the file.
        columns: Those to read; all by default.
        footer: Of the file, where it was read before.
        groups: Numbers of the row groups; all by default.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    known = footer or read_footer(store, name)

    def read(group: int) -> list[tuple[int, bytes]]:
        spans = _spans(known.row_group(group), columns)
        return [(start, store.read_range(name, start, end - start)) for start, end in spans]

    for group, pieces in map_in_flight(range(known.num_row_groups) if groups is None else groups, read):
        file = open_parquet(io.BufferedReader(_Pieces(pieces)), footer=known)
        yield file.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)


def _spans(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> list[tuple[int, int]]:
    """Where the bytes of a row group's columns lie, near ones together."""
    spans: list[tuple[int, int]] = []
    for number in range(group.num_columns):
        column = group.column(number)
        if columns is None or column.path_in_schema.split(".")[0] in columns:
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            spans.append((start, start + column.total_compressed_size))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start - merged[-1][1] <= GAP_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class _Pieces(io.RawIOBase):
    """Pieces of a file under their offsets; what lies between them is never asked for."""

    def __init__(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        self._pieces = pieces
        self._starts = [start for start, _ in pieces]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start, data = self._pieces[-1]
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: start + len(data)}[whence]
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        start, data = self._pieces[max(0, bisect_right(self._starts, self._position) - 1)]
        view = memoryview(buffer).cast("B")
        offset = self._position - start
        found = memoryview(data)[max(0, offset) : max(0, offset) + len(view)] if offset >= 0 else memoryview(b"")
        view[: len(found)] = found
        self._position += len(found)
        return len(found)
