"""A file of a prompt dataset on this machine, and tables that are written into one because their source has no file.

Such a table counts by its rows, not by the bytes of its file, which differ from one version of pyarrow to the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from abstractvision_batch.storage.parquet import open_writer
from abstractvision_batch.storage.scratch import temporary_disk


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the dataset. `name` is what messages show, `folder` is where its relative image paths start."""

    name: str
    path: Path
    folder: str
    format: str
    digest: str | None = None
    """SHA-256 of what it holds, in hex digits, where that is not the one of its bytes."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What the plan records of where it is from."""
    notes: tuple[str, ...] = ()
    """What a person should know of it."""


class RowsDigest:
    """SHA-256 over rows, whatever the types of their columns are called."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, table: pa.Table | pa.RecordBatch) -> None:
        """Take up rows, in order."""
        for row in table.to_pylist():
            text = json.dumps(row, sort_keys=True, separators=(",", ":"), default=str)
            self._hash.update(text.encode(errors="surrogatepass") + b"\n")

    @property
    def value(self) -> str:
        """In hex digits."""
        return self._hash.hexdigest()


def write_rows(sink: Path | BinaryIO, schema: pa.Schema, tables: Iterable[pa.Table]) -> str:
    """Write tables into one Parquet file. Returns the digest of their rows."""
    digest = RowsDigest()
    schema = schema.remove_metadata()
    with temporary_disk(), open_writer(sink, schema, {}) as writer:
        for table in _in_pieces(tables):
            digest.add(table)
            writer.write_table(table.replace_schema_metadata(None))
    return digest.value


_PIECE_ROWS = 4096


def _in_pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        for start in range(0, table.num_rows, _PIECE_ROWS):
            yield table.slice(start, _PIECE_ROWS)
