"""Parquet files: opened and read so that damage is one line and nothing of Arrow outlives the reader.

This is the only place that reads Parquet, and so the only one that knows what Arrow raises for a damaged file: its own
errors, plain OSError (thrift, zstd, a wrong checksum), and what Python makes of bytes that are no text and of times
that are no dates. What is written here has a checksum for every page and a digest of its columns in the footer, so a
flipped bit is found; files without them (plans, those of earlier versions) are read as well.

Not covered: whether a whole file is the right one (`plan.read`, `execute.manifest`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abstractvision_batch.errors import DamagedFileError

#: Key of a file's metadata: a digest of its columns, which no checksum of a page covers.
COLUMNS_KEY = b"abstractvision_batch.columns"
#: What Arrow, and Python on what Arrow gives it, raise for a damaged file. UnicodeDecodeError is a ValueError.
_DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, OverflowError, LookupError, pa.lib.ArrowMemoryError)
#: Python's dates, in each unit of Arrow's timestamps.
_SECONDS = (-62_135_596_800, 253_402_300_800)
_UNITS = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


class ParquetReader:
    """An open Parquet file. Everything raises DamagedFileError where the file is not what was written.

    Args:
        source: The file.
        name: What messages call it.
        remedy: What would fix it, for messages.
        footer: Its metadata, where they were read before.
    """

    def __init__(
        self, source: BinaryIO | Path, *, name: str, remedy: str | None = None, footer: pq.FileMetaData | None = None
    ) -> None:
        self._name = name
        self._remedy = remedy
        with parquet_errors(name, remedy):
            # Arrow's pre-buffering reads on threads of its own, which let go of a Python buffer at any later time. When
            # that is the interpreter's end, the thread cannot take the interpreter's lock and the process aborts
            # (signal 6). Hence no reading on threads either.
            self._file = pq.ParquetFile(source, metadata=footer, pre_buffer=False, page_checksum_verification=True)
            self.metadata: pq.FileMetaData = self._file.metadata
            self.schema: pa.Schema = self._file.schema_arrow
            self._require_columns()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole file, or some columns of it; those that it does not have are left out."""
        with parquet_errors(self._name, self._remedy):
            table = self._file.read(columns=None if columns is None else list(columns), use_threads=False)
            return _require_sound(table, self.metadata.num_rows)

    def read_row_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group, or some columns of it."""
        wanted = None if columns is None else list(columns)
        with parquet_errors(self._name, self._remedy):
            table = self._file.read_row_group(group, columns=wanted, use_threads=False)
            return _require_sound(table, self.metadata.row_group(group).num_rows)

    def iter_batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The file in batches of at most so many rows."""
        wanted = None if columns is None else list(columns)
        with parquet_errors(self._name, self._remedy):
            batches = self._file.iter_batches(rows, columns=wanted, use_threads=False)
        while True:
            with parquet_errors(self._name, self._remedy):
                batch = next(batches, None)
                if batch is None:
                    return
                _require_sound(pa.Table.from_batches([batch]), batch.num_rows)
            yield batch

    def _require_columns(self) -> None:
        str(self.schema)  # decodes every name
        written = (self.metadata.metadata or {}).get(COLUMNS_KEY)
        if written is not None and written != _digest(self.schema):
            raise ValueError("its columns are not those that were written")


def open_parquet(
    source: BinaryIO | Path, *, name: str, remedy: str | None = None, footer: pq.FileMetaData | None = None
) -> ParquetReader:
    """Open a file for reading; the arguments are those of `ParquetReader`.

    Raises:
        DamagedFileError: it is no Parquet file, or its footer is damaged.
    """
    return ParquetReader(source, name=name, remedy=remedy, footer=footer)


@contextmanager
def parquet_errors(name: str, remedy: str | None = None) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into one line; errors of ours, such as the store's, pass."""
    try:
        yield
    except _DAMAGE as exc:
        said = " ".join(str(exc).split()) or type(exc).__name__
        fix = f" ({remedy})" if remedy else ""
        raise DamagedFileError(f"{name}: is damaged: {said[:300]}{fix}") from exc


def open_writer(sink: BinaryIO | Path, schema: pa.Schema, metadata: Mapping[bytes, bytes]) -> pq.ParquetWriter:
    """Open a file for writing, with a checksum for every page and a digest of the columns.

    Args:
        sink: The file.
        schema: Its columns.
        metadata: Of the file, in place of the schema's.
    """
    described = schema.with_metadata({**metadata, COLUMNS_KEY: _digest(_as_read(schema.remove_metadata()))})
    return pq.ParquetWriter(sink, described, compression="zstd", write_page_checksum=True)


@lru_cache(maxsize=64)
def _as_read(schema: pa.Schema) -> pa.Schema:
    """The schema that a reader of a file with these columns gets: Parquet has no word for some types."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(sink)


def _digest(schema: pa.Schema) -> bytes:
    """A digest of the columns' names and types; of nested types the kind, since Arrow renames their insides."""
    lines = (f"{field.name}\t{'nested' if pa.types.is_nested(field.type) else field.type}" for field in schema)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest().encode()


def _require_sound(table: pa.Table, rows: int) -> pa.Table:
    """Refuse rows that are too few, text that is none, and times beyond Python's.

    Raises:
        ValueError: there are such.
    """
    if table.num_rows != rows and table.num_columns:
        raise ValueError(f"{table.num_rows:,} rows, and {rows:,} in the footer")
    table.validate(full=True)
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_timestamp(field.type) and table.num_rows:
            first, last = _SECONDS[0] * _UNITS[field.type.unit], _SECONDS[1] * _UNITS[field.type.unit]
            found = pc.min_max(column.cast(pa.int64())).as_py()
            if found["min"] is not None and not (first <= found["min"] and found["max"] < last):
                raise ValueError(f"{field.name}: a time beyond every calendar")
    return table
