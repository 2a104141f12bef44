"""Parquet files: opened and read so that damage is one line and nothing of Arrow outlives the reader.

This is the only place that reads Parquet, and so the only one that knows what Arrow raises for a damaged file: its own
errors, plain OSError (thrift, zstd, a wrong checksum), and what Python makes of bytes that are no text and of times
that are no dates. What is written here has a checksum for every page, and a seal: before the footer, the footer's hash.
So every flipped bit is found. Files without them (plans, those of earlier versions) are read as well, but nobody asks
pyarrow what the footer of such a file says of a column: where that is damaged, Arrow throws, pyarrow does not catch it,
and the process aborts (seen with pyarrow 26: a definition level histogram of the wrong size).

Not covered: whether a whole file is the right one (`runs.plan_rows`, `runs.manifest`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abstractvision_batch.errors import DamagedFileError

#: A seal is these bytes and the SHA-256 of the footer, right before the footer.
_SEAL = b"avbSEAL1"
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_MAGIC = b"PAR1"
#: Read at first for the footer.
_TAIL_BYTES = 1 << 16
#: What Arrow, and Python on what Arrow gives it, raise for a damaged file. UnicodeDecodeError is a ValueError.
_DAMAGE = (pa.ArrowException, OSError, EOFError, ValueError, OverflowError, LookupError, pa.lib.ArrowMemoryError)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a Parquet file says of itself."""

    metadata: pq.FileMetaData
    sealed: bool
    """Whether it is known to be what was written; else nobody may ask it for a column."""


class ParquetReader:
    """An open Parquet file. Everything raises DamagedFileError where the file is not what was written.

    Args:
        source: The file.
        name: What messages call it.
        remedy: What would fix it, for messages.
        footer: Its metadata, where they were read before.
    """

    def __init__(
        self, source: BinaryIO | Path, *, name: str, remedy: str | None = None, footer: Footer | None = None
    ) -> None:
        self._name = name
        self._remedy = remedy
        with parquet_errors(name, remedy):
            self.footer = footer or _read_footer(source)
            self.metadata = self.footer.metadata
            # Arrow's pre-buffering reads on threads of its own, which let go of a Python buffer at any later time. When
            # that is the interpreter's end, the thread cannot take the interpreter's lock and the process aborts
            # (signal 6). Hence no reading on threads either.
            options = {"pre_buffer": False, "page_checksum_verification": True}
            self._file = pq.ParquetFile(source, metadata=self.metadata, **options)
            self.schema: pa.Schema = self._file.schema_arrow
            str(self.schema)  # decodes every name

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


def open_parquet(
    source: BinaryIO | Path, *, name: str, remedy: str | None = None, footer: Footer | None = None
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


class SealingWriter(pq.ParquetWriter):  # type: ignore[misc]  # pyarrow has no types
    """A writer that seals its file when it is closed."""

    def __init__(self, sink: BinaryIO | Path, schema: pa.Schema, **options: Any) -> None:
        super().__init__(sink, schema, **options)
        self._sink = sink

    def close(self) -> None:
        """Write the footer, and the seal before it."""
        if self.is_open:
            super().close()
            with self._sink.open("r+b") if isinstance(self._sink, Path) else nullcontext(self._sink) as file:
                _seal(file)


def open_writer(sink: BinaryIO | Path, schema: pa.Schema, metadata: Mapping[bytes, bytes]) -> SealingWriter:
    """Open a file for writing, with a checksum for every page and for the footer.

    Args:
        sink: The file; a stream must be one that can be read and sought.
        schema: Its columns.
        metadata: Of the file, in place of the schema's.
    """
    described = schema.with_metadata(dict(metadata))
    return SealingWriter(sink, described, compression="zstd", write_page_checksum=True)


def _seal(file: BinaryIO) -> None:
    footer = _read_tail(file)[_SEAL_BYTES:]
    file.seek(-len(footer), io.SEEK_END)
    file.write(_SEAL + hashlib.sha256(footer).digest() + footer)


def _read_footer(source: BinaryIO | Path) -> Footer:
    """The footer, once its seal is checked where it has one.

    Raises:
        ValueError, pa.ArrowException: it is damaged.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        tail = _read_tail(file)
    seal, footer = tail[:_SEAL_BYTES], tail[_SEAL_BYTES:]
    sealed = seal.startswith(_SEAL)
    if sealed and seal != _SEAL + hashlib.sha256(footer).digest():
        raise ValueError("its footer is not the one that was written")
    return Footer(pq.read_metadata(pa.BufferReader(_MAGIC + footer)), sealed)


def _read_tail(file: BinaryIO) -> bytes:
    """The footer with its length and the file's last mark, and before it as many bytes as a seal has.

    Raises:
        ValueError: there is no such footer.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    wanted = _SEAL_BYTES + int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != _MAGIC or wanted - _SEAL_BYTES > size:
        raise ValueError("it has no footer of a Parquet file")
    if wanted > len(tail) and len(tail) < size:
        file.seek(max(0, size - wanted))
        tail = file.read()
    return tail[-wanted:].rjust(wanted, b"\0")


def _require_sound(table: pa.Table, rows: int) -> pa.Table:
    """Refuse rows that are too few, text that is none, and times that Python does not know.

    Raises:
        ValueError, OverflowError, LookupError, pa.ArrowException: there are such.
    """
    if table.num_rows != rows and table.num_columns:
        raise ValueError(f"{table.num_rows:,} rows, and {rows:,} in the footer")
    table.validate(full=True)
    for field, column in zip(table.schema, table.columns, strict=True):
        _require_python(field.type, column)
    return table


def _require_python(kind: pa.DataType, column: pa.ChunkedArray) -> None:
    """Refuse values that Python has no object for: times beyond its calendar, or in a time zone that does not exist.

    Raises:
        ValueError, OverflowError, LookupError, pa.ArrowException: there are such.
    """
    if pa.types.is_temporal(kind):
        if pa.types.is_interval(kind):
            return
        pa.scalar(0, kind).as_py()  # its time zone, also where no row has a time
        if getattr(kind, "unit", None) != "ns":  # those end in 2262
            ends = pc.min_max(column.cast(pa.int64()) if pa.types.is_duration(kind) else column)
            for end in ("min", "max"):
                ends[end].cast(kind).as_py()
    elif _holds_temporal(kind):
        column.to_pylist()


@cache
def _holds_temporal(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_temporal(kind.value_type)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_temporal(kind) or any(map(_holds_temporal, inner))
