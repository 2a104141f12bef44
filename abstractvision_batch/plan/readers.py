"""Read the rows of a prompt file: txt, csv, tsv, jsonl or parquet, streaming, as (line, mapping of column to value).

Text is UTF-8, with or without a byte order mark; anything else is an error with the line where it starts. A tsv field
is unquoted where its quotes are those of RFC 4180, and otherwise left as it stands: PartiPrompts has a prompt that
begins with a quoted word.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from abstractvision_batch.errors import DamagedFileError, SpecError
from abstractvision_batch.parquet import ParquetReader, open_parquet, parquet_errors
from abstractvision_batch.plan.problems import Problems
from abstractvision_batch.plan.sources import SourceFile
from abstractvision_batch.plan.unpacking import bound_unpacking, hold
from abstractvision_batch.storage.regular import open_regular

MAX_LINE_BYTES = 16 << 20
#: A quoted tsv field may go on over this many lines before its quote is taken for a character.
_MAX_TSV_RECORD_LINES = 200
_PARQUET_BATCH_ROWS = 2048

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file's columns, if it names them, and how to read its rows from the start, as often as needed."""

    source: SourceFile
    problems: Problems

    def place(self, line: int) -> str:
        """Where a row stands: ``prompts.csv:17``."""
        return f"{self.source.name}:{'row ' if self.source.format == 'parquet' else ''}{line}"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Rows in order, each with its 1-based line (row, for parquet).

        Raises:
            SpecError: the file is not what its format says.
        """
        with _readable(self.source) as stream:
            match self.source.format:
                case "txt":
                    yield from self._txt_rows(stream)
                case "csv":
                    yield from self._table_rows(self._csv_records(stream))
                case "tsv":
                    yield from self._table_rows(self._tsv_records(stream))
                case "jsonl":
                    yield from self._jsonl_rows(stream)
                case _:
                    yield from self._parquet_rows(stream)

    def header(self) -> list[str] | None:
        """Columns that the file itself names; None for jsonl, whose rows each name their own."""
        with _readable(self.source) as stream:
            match self.source.format:
                case "txt":
                    return ["prompt"]
                case "csv":
                    return self._check_header(next(self._csv_records(stream), None))
                case "tsv":
                    return self._check_header(next(self._tsv_records(stream), None))
                case "parquet":
                    return list(self._open_parquet(stream).schema.names)
        return None

    def arrow_schema(self) -> pa.Schema | None:
        """The Arrow schema, for parquet."""
        if self.source.format != "parquet":
            return None
        with _readable(self.source) as stream:
            schema = self._open_parquet(stream).schema
        self._check_header((0, schema.names))
        return schema

    def _lines(self, stream: BinaryIO) -> Iterator[tuple[int, str]]:
        """Decoded lines with their line ends; only a newline ends a line, so U+2028 in a prompt is a character."""
        number = 0
        while data := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise SpecError(f"{self.place(1)}: the text is UTF-16 (save it as UTF-8)")
                data = data.removeprefix(b"\xef\xbb\xbf")
            if len(data) > MAX_LINE_BYTES:
                raise SpecError(f"{self.place(number)}: the line is longer than 16 MiB (is this a text file?)")
            if b"\0" in data:
                raise SpecError(f"{self.place(number)}: a NUL byte: this is not text (is the format right?)")
            try:
                yield number, data.decode()
            except UnicodeDecodeError as error:
                shown = f"byte 0x{data[error.start]:02x} at column {error.start + 1}"
                raise SpecError(f"{self.place(number)}: {shown} is not UTF-8 (save the file as UTF-8)") from error

    def _txt_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        for line, text in self._lines(stream):
            if prompt := text.strip():
                yield line, {"prompt": prompt}

    def _table_rows(self, records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Row]]:
        header = self._check_header(next(records, None))
        width = len(header)
        for line, cells in records:
            if len(cells) == width:
                yield line, dict(zip(header, cells, strict=True))
            else:
                self.problems.add(
                    f"{self.place(line)}: {len(cells)} fields where the header has {width} "
                    "(quote a field that holds the separator)"
                )

    def _check_header(self, record: tuple[int, list[str]] | None) -> list[str]:
        if record is None:
            return []
        line, names = record
        for number, name in enumerate(names):
            if not name.strip():
                raise SpecError(f"{self.place(line)}: column {number + 1} has no name (name it, or leave it out)")
            if name in names[:number]:
                raise SpecError(f"{self.place(line)}: two columns are called {name!r} (rename one)")
        return names

    def _csv_records(self, stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        start = 1
        lines = self._lines(stream)
        reader = csv.reader((text for _, text in lines), strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise SpecError(
                    f"{self.place(start)}: {error} (double the quotes inside a quoted field, and close it)"
                ) from error
            if cells is None:
                return
            if cells:
                yield start, cells
            start = reader.line_num + 1

    def _tsv_records(self, stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines(stream)
        waiting: list[tuple[int, str]] = []
        width: int | None = None
        while True:
            number, text = waiting.pop(0) if waiting else next(lines, (0, ""))
            if not text:
                return
            if not text.strip("\r\n"):
                continue
            cells = text.rstrip("\r\n").split("\t")
            if '"' in text:
                cells = self._unquoted(text, cells, width, waiting, lines)
            width = width or len(cells)
            yield number, cells

    @staticmethod
    def _unquoted(
        text: str,
        literal: list[str],
        width: int | None,
        waiting: list[tuple[int, str]],
        lines: Iterator[tuple[int, str]],
    ) -> list[str]:
        """One record's cells; takes the lines that a quoted field goes on over out of `waiting`."""
        plain = [_unquote(cell) for cell in literal]
        left_open = literal[-1].startswith('"') and text.count('"') % 2 == 1
        if width is None or (len(literal) == width and not left_open):
            return plain
        record = text
        for taken in range(_MAX_TSV_RECORD_LINES):
            try:
                records = list(csv.reader(io.StringIO(record, newline=""), "excel-tab", strict=True))
            except csv.Error as error:
                if "unexpected end of data" not in str(error):
                    break
            else:
                if [len(cells) for cells in records] != [width]:
                    break
                del waiting[:taken]
                return records[0]
            if taken == len(waiting):
                following = next(lines, None)
                if following is None:
                    break
                waiting.append(following)
            record += waiting[taken][1]
        return plain

    def _jsonl_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        for line, text in self._lines(stream):
            if not text.strip():
                continue
            try:
                value = json.loads(text, parse_constant=_refuse_constant)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                self.problems.add(f"{self.place(line)}: not JSON: {reason} (one JSON object a line)")
                continue
            if not isinstance(value, dict):
                self.problems.add(f'{self.place(line)}: not a JSON object (write {{"prompt": …}})')
            elif "\\ud" in text.lower() and not _encodable("".join(value)):
                self.problems.add(f"{self.place(line)}: half a surrogate pair in a name, which is no character")
            else:
                yield line, value

    def _parquet_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        table = self._open_parquet(stream)
        line = 0
        try:
            for batch in table.iter_batches(_PARQUET_BATCH_ROWS):
                for row in _to_python(batch, self.source.name):
                    line += 1
                    yield line, row
        except DamagedFileError as error:
            raise SpecError(f"{self.place(line + 1)}: the file is damaged: {error.__cause__}") from error

    def _open_parquet(self, stream: BinaryIO) -> ParquetReader:
        try:
            return open_parquet(stream, name=self.source.name)
        except DamagedFileError as error:
            raise SpecError(f"{self.source.name}: not a Parquet file: {error.__cause__}") from error


def _to_python(batch: pa.RecordBatch, name: str) -> list[Row]:
    """The rows as Python's types, which have no word for some values of Arrow's."""
    with parquet_errors(name):
        rows: list[Row] = batch.to_pylist()
        return rows


def _unquote(cell: str) -> str:
    """The cell without the quotes of RFC 4180, or as it is if its quotes are not of that kind."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1]
    return inner.replace('""', '"') if '"' not in inner.replace('""', "") else cell


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


@contextmanager
def _readable(source: SourceFile) -> Iterator[BinaryIO]:
    """The file's bytes, unzipped."""
    try:
        with open_regular(source.path) as raw:
            if not source.gzipped:
                yield raw
            else:
                with gzip.open(raw) as unzipped:
                    bounded = bound_unpacking(source.name, raw, unzipped)
                    # Parquet is read from its end: a seek in a gzip stream would decompress it again and again.
                    yield hold(source.name, bounded) if source.format == "parquet" else bounded
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SpecError(f"{source.name}: the gzip file cannot be read: {error}") from error
    except PermissionError as error:
        raise SpecError(f"{source.name}: no permission to read it") from error
    except IsADirectoryError as error:
        raise SpecError(f"{source.name}: a folder (name a file, or a glob)") from error
