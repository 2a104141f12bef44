"""The layout `parquet`: a row per picture, its bytes in a column that Hugging Face `datasets` decodes.

`image` (`video` in the tasks that make one, `images` with all views in `multi_view_image`) is a struct of `bytes` and
`path`, and the schema's metadata says so. The bytes are neither compressed, which they are already, nor turned into a
dictionary, so each file lies in the container as it is, after its length, and can be read without a Parquet reader.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.columns import RESULT_SCHEMA, media_column
from abstractvision_batch.runs.layouts.containers import MEDIA_COLUMNS, Member

#: A row group ends at either: small ones, as the Hugging Face hub wants of pictures, whose viewer reads whole ones.
GROUP_ROWS = 100
GROUP_BYTES = 32 << 20
#: Bytes of a member by which it is looked for; its hash then decides.
SEARCHED_BYTES = 64
#: Between two members lie some headers, or the other columns of a row group.
WINDOW_BYTES = 1 << 16

_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES: dict[str, Any] = {"image": {"_type": "Image"}, "images": [{"_type": "Image"}], "video": {"_type": "Video"}}
_LEAVES = {"image": "image", "images": "images.list.element", "video": "video"}


class ParquetContainer:
    """A Parquet file that is being written, a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._plan = schema.remove_metadata()
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._members: list[tuple[bytes, int, str]] = []

    def add(self, row: Mapping[str, Any], members: Sequence[Member]) -> None:
        files = [{"bytes": member.data, "path": member.name} for member in members]
        name = media_column(row["task"])
        self._rows.append({**row, name: files if name == "images" else files[0]})
        self._bytes += sum(len(member.data) for member in members)
        self._members += [(member.data[:SEARCHED_BYTES], len(member.data), member.sha256) for member in members]
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def finish(self) -> list[int]:
        self._write_group()
        self.close()
        return list(self._find_members())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_group(self) -> None:
        if not self._rows:
            return
        schema = self._schema(media_column(self._rows[0]["task"]))
        if self._writer is None:
            self._writer = _open_writer(self._path, schema)
        columns = [pa.array([row[field.name] for row in self._rows], field.type) for field in schema]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=GROUP_ROWS)
        self._rows, self._bytes = [], 0

    def _schema(self, name: str) -> pa.Schema:
        media = pa.field(name, pa.list_(_FILE) if name == "images" else _FILE)
        described = {"info": {"features": {name: _FEATURES[name]}}}
        fields = [media, *self._plan, *(RESULT_SCHEMA.field(column) for column in MEDIA_COLUMNS)]
        return pa.schema(fields, metadata={"huggingface": json.dumps(described)})

    def _find_members(self) -> Iterator[int]:
        """Where each member begins: pyarrow does not say, so they are looked for, one after the other."""
        with self._path.open("rb") as file:
            position = 0
            for head, size, sha256 in self._members:
                position = _find(file, head, size, sha256, position)
                yield position
                position += size


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    stored = f"{_LEAVES[schema.names[0]]}.bytes"
    others = [name for name in _leaf_names(schema) if name != stored]
    return pq.ParquetWriter(
        path,
        schema,
        compression={stored: "none", **dict.fromkeys(others, "zstd")},
        use_dictionary=others,
        write_statistics=others,
        write_page_index=True,
    )


def _leaf_names(schema: pa.Schema) -> list[str]:
    """Names of the columns as Parquet has them, which nested ones make several of."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.read_metadata(sink).schema
    return [columns.column(number).path for number in range(len(columns))]


def _find(file: BinaryIO, head: bytes, size: int, sha256: str, start: int) -> int:
    # What the encoding PLAIN writes for a byte array: its length, then the bytes.
    pattern = struct.pack("<I", size) + head
    for found in _occurrences(file, pattern, start):
        file.seek(found + 4)
        if hashlib.sha256(file.read(size)).hexdigest() == sha256:
            return found + 4
    raise StorageError(
        f"a file of {size:,} bytes is not in its Parquet file as it is "
        f"(pyarrow {pa.__version__} writes it in another way: output.layout: files, or another pyarrow)"
    )


def _occurrences(file: BinaryIO, pattern: bytes, start: int) -> Iterator[int]:
    """Where a pattern is from `start` on, looking at a window at a time: a mapped file would count as memory in use."""
    while True:
        file.seek(start)
        window = file.read(WINDOW_BYTES)
        at = window.find(pattern)
        while at >= 0:
            yield start + at
            at = window.find(pattern, at + 1)
        if len(window) < WINDOW_BYTES:
            return
        start += len(window) - len(pattern) + 1
