"""Read the rows of a prompt file, streaming, as (line, mapping of column to value).

Not covered: how a file is unpacked (`compression`), decoded (`lines`) and cut into records (`tables`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from abstractvision_batch.errors import DamagedFileError, SpecError
from abstractvision_batch.job.fingerprint import FINGERPRINT_VERSION
from abstractvision_batch.job.prompt_files import COMPRESSIONS
from abstractvision_batch.prompts.compression import bound_unpacking, hold, unpacked
from abstractvision_batch.prompts.lines import read_lines
from abstractvision_batch.prompts.option_lines import is_option_line, parse_option_line
from abstractvision_batch.prompts.problems import Problems
from abstractvision_batch.prompts.source_files import SourceFile
from abstractvision_batch.prompts.tables import Record, TableError, read_records
from abstractvision_batch.storage.parquet import ParquetReader, open_parquet, parquet_errors
from abstractvision_batch.storage.regular import open_regular

_PARQUET_BATCH_ROWS = 2048
_SEPARATOR_OF_FORMAT = {"csv": ",", "tsv": "\t"}
#: Formats whose cells are text.
TABLES = frozenset(_SEPARATOR_OF_FORMAT)
#: Formats whose rows name their columns themselves.
ROWS_WITH_NAMES = frozenset({"jsonl", "json", "a1111"})
_MAX_PROMPT_FILE_BYTES = 1 << 20

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file's columns, if it names them, and how to read its rows from the start, as often as needed.

    `version` is the fingerprint's, of whose rules the file is read; lines of a txt file that begin with `comments` are
    left out.
    """

    source: SourceFile
    problems: Problems
    version: int = FINGERPRINT_VERSION
    comments: str | None = None
    notes: set[str] = field(default_factory=set, compare=False)
    """What a person should know of how it is read."""

    def place(self, line: int) -> str:
        """Where a row stands: ``prompts.csv:17``."""
        return f"{self.source.name}:{'row ' if self.source.format in ('parquet', 'json') else ''}{line}"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Rows in order, each with its 1-based line (row, for parquet and json).

        Raises:
            SpecError: the file is not what its format says.
        """
        with _readable(self.source) as stream:
            match self.source.format:
                case "txt":
                    yield from self._txt_rows(stream)
                case "a1111":
                    yield from self._option_rows(stream)
                case "one_per_file":
                    yield self._whole_text(stream)
                case "csv" | "tsv":
                    with self._table_errors():
                        yield from self._table_rows(self._records(stream))
                case "jsonl":
                    yield from self._jsonl_rows(stream)
                case "json":
                    yield from self._json_rows(stream)
                case _:
                    yield from self._parquet_rows(stream)

    def header(self) -> list[str] | None:
        """Columns that the file itself names; None where rows each name their own."""
        if self.source.format in ROWS_WITH_NAMES:
            return None
        with _readable(self.source) as stream:
            match self.source.format:
                case "txt":
                    return ["prompt"]
                case "one_per_file":
                    return ["prompt", "id"]
                case "csv" | "tsv":
                    with self._table_errors():
                        return [name for name in self._check_header(next(self._records(stream), None)) if name]
                case _:
                    return list(self._open_parquet(stream).schema.names)

    def arrow_schema(self) -> pa.Schema | None:
        """The Arrow schema, for parquet."""
        if self.source.format != "parquet":
            return None
        with _readable(self.source) as stream:
            schema = self._open_parquet(stream).schema
        self._check_header((0, schema.names))
        return schema

    def _lines(self, stream: BinaryIO) -> Iterator[tuple[int, str]]:
        return read_lines(stream, self.source.name, split_returns=self.version > 1)

    def _txt_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        comments = 0
        for line, text in self._lines(stream):
            prompt = text.strip()
            if not prompt or (self.comments is not None and prompt.startswith(self.comments)):
                continue
            comments += prompt.startswith("#")
            if self.version > 1 and is_option_line(prompt):
                self.problems.add(
                    f"{self.place(line)}: {prompt.split()[0]} is an option of AUTOMATIC1111's prompt files "
                    "(prompts.format: a1111 reads them)"
                )
            yield line, {"prompt": prompt}
        if comments:
            lines = "1 line begins with # and is a prompt" if comments == 1 else f"{comments:,} lines begin with #"
            and_are = "" if comments == 1 else " and are prompts"
            self.notes.add(f'{self.source.name}: {lines}{and_are} (prompts.comments: "#" leaves such lines out)')

    def _option_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        for line, text in self._lines(stream):
            prompt = text.strip()
            if not prompt or (self.comments is not None and prompt.startswith(self.comments)):
                continue
            try:
                yield line, parse_option_line(prompt)
            except ValueError as error:
                self.problems.add(f"{self.place(line)}: {error}")

    def _whole_text(self, stream: BinaryIO) -> tuple[int, Row]:
        lines, length = [], 0
        for _, text in self._lines(stream):
            lines.append(text)
            length += len(text)
            if length > _MAX_PROMPT_FILE_BYTES:
                raise SpecError(f"{self.source.name}: longer than 1 Mi characters, which is no prompt (a wrong glob?)")
        name = PurePosixPath(self.source.name.replace("\\", "/"))
        name = name.with_suffix("") if name.suffix.lower() in COMPRESSIONS else name
        return 1, {"prompt": "".join(lines).strip(), "id": name.stem}

    def _records(self, stream: BinaryIO) -> Iterator[Record]:
        separator = _SEPARATOR_OF_FORMAT[self.source.format]
        return read_records(self._lines(stream), separator, find=self.version > 1)

    @contextmanager
    def _table_errors(self) -> Iterator[None]:
        try:
            yield
        except TableError as error:
            raise SpecError(
                f"{self.place(error.line)}: {error.message} (double the quotes inside a quoted cell, and close it)"
            ) from error

    def _table_rows(self, records: Iterator[Record]) -> Iterator[tuple[int, Row]]:
        header = self._check_header(next(records, None))
        width = len(header)
        indexed = header[:1] == [""]
        for line, cells in records:
            if self.version > 1 and len(cells) > width and not any(cells[width:]):
                del cells[width:]
            if len(cells) != width:
                self.problems.add(f"{self.place(line)}: {_describe_ragged(cells, header)}")
            elif indexed:
                yield line, dict(zip(header[1:], cells[1:], strict=True))
            else:
                yield line, dict(zip(header, cells, strict=True))

    def _check_header(self, record: Record | None) -> list[str]:
        """The names of the columns; the first is empty where pandas wrote the numbers of rows into it."""
        if record is None:
            return []
        line, names = record
        if self.version > 1 and self.source.format != "parquet":
            while names and not names[-1]:
                names = names[:-1]
            if len(names) > 1 and not names[0]:
                self.notes.add(f"{self.source.name}: the first column has no name and is left out")
        for number, name in enumerate(names):
            if not name.strip() and not (number == 0 and len(names) > 1 and self.version > 1):
                raise SpecError(f"{self.place(line)}: column {number + 1} has no name (name it, or leave it out)")
            if name in names[:number]:
                raise SpecError(f"{self.place(line)}: two columns are called {name!r} (rename one)")
        return names

    def _jsonl_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        for line, text in self._lines(stream):
            if not text.strip():
                continue
            try:
                value = json.loads(text, parse_constant=_refuse_constant)
            except (ValueError, RecursionError) as error:
                if line == 1 and text.strip() == "[":
                    raise SpecError(f"{self.place(1)}: a JSON array (prompts.format: json reads it)") from error
                self.problems.add(f"{self.place(line)}: {_describe_json_error(error)} (one JSON object a line)")
                continue
            if line == 1 and isinstance(value, list):
                raise SpecError(f"{self.place(1)}: a JSON array (prompts.format: json reads it)")
            if not isinstance(value, dict):
                self.problems.add(f'{self.place(line)}: not a JSON object (write {{"prompt": …}})')
            elif "\\ud" in text.lower() and not _encodable("".join(value)):
                self.problems.add(f"{self.place(line)}: half a surrogate pair in a name, which is no character")
            else:
                yield line, value

    def _json_rows(self, stream: BinaryIO) -> Iterator[tuple[int, Row]]:
        data = stream.read()
        try:
            values = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
                yield from self._jsonl_rows(io.BytesIO(data))  # many data sets name JSON lines so
                return
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise SpecError(f"{self.source.name}{line}: {_describe_json_error(error)}") from error
        for number, value in enumerate(self._array_of(values), 1):
            row = {"prompt": value} if isinstance(value, str) else value
            if not isinstance(row, dict):
                self.problems.add(f"{self.place(number)}: neither a text nor a JSON object")
            elif not _encodable("".join(row)):
                self.problems.add(f"{self.place(number)}: half a surrogate pair in a name, which is no character")
            else:
                yield number, row

    def _array_of(self, value: Any) -> list[Any]:
        """The rows of a JSON file: an array, the array that is all that an object has, or the one row that it is."""
        only = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
        if isinstance(only, list) and all(isinstance(item, dict | str) for item in only):
            return only
        if isinstance(value, dict) and "prompt" in value and not isinstance(value["prompt"], list | dict):
            return [value]
        if not isinstance(value, list):
            names = ", ".join(map(repr, list(value)[:5])) if isinstance(value, dict) else None
            what = repr(value)[:40] if names is None else f"an object of {names}"
            raise SpecError(f'{self.source.name}: {what}, not an array of rows (write [{{"prompt": …}}, …])')
        return value

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


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value: write null, or leave it out")


def _describe_ragged(cells: Sequence[str], header: Sequence[str]) -> str:
    said = f"{len(cells)} fields where the header has {len(header)}"
    if len(cells) > len(header):
        return f"{said} (quote a field that holds the separator)"
    return f"{said}: none for {', '.join(header[len(cells) :][:5])} (write the separators of empty cells too)"


def _describe_json_error(error: Exception) -> str:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return f"not JSON: {reason}"


@contextmanager
def _readable(source: SourceFile) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked."""
    try:
        with open_regular(source.path) as raw, unpacked(raw, source.name) as stream:
            if stream is None:
                yield raw
            else:
                bounded = bound_unpacking(source.name, raw, stream)
                # Parquet is read from its end: a seek in a packed stream would unpack it again and again.
                yield hold(source.name, bounded) if source.format == "parquet" else bounded
    except PermissionError as error:
        raise SpecError(f"{source.name}: no permission to read it") from error
    except IsADirectoryError as error:
        raise SpecError(f"{source.name}: a folder (name a file, or a glob)") from error
