"""The prompts of a job: every row of the dataset read, filtered and shuffled, then made a `Prompt`, in order.

    files → rows → `where` → `shuffle` → `limit` → `Prompt` → `grammar`

What is wrong with rows is collected and raised together. Memory is that of one row, and with `shuffle` of some.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.other_params import rule_type
from abstractvision_batch.prompts.column_types import ColumnTypes, holds_bytes
from abstractvision_batch.prompts.grammar import PromptGrammar
from abstractvision_batch.prompts.mapping import ColumnMap, map_columns
from abstractvision_batch.prompts.notes import find_idle_columns
from abstractvision_batch.prompts.problems import Problems
from abstractvision_batch.prompts.prompts import Prompt, PromptParser, SourceRow
from abstractvision_batch.prompts.readers import ROWS_WITH_NAMES, TABLES, PromptFile
from abstractvision_batch.prompts.shuffle import shuffle_rows
from abstractvision_batch.prompts.source_files import SourceFile
from abstractvision_batch.prompts.template import RowError, compile_template, compile_where
from abstractvision_batch.runs.columns import PLAN_FORMAT

_Result = TypeVar("_Result")


class PromptReader:
    """Reads one job's prompts, as often as asked; the columns are known from the start."""

    def __init__(self, job: Job, files: Sequence[SourceFile], format: int = PLAN_FORMAT) -> None:
        self._job = job
        self._problems = Problems()
        self._files = [PromptFile(file, self._problems, job.version, job.spec.prompts.comments) for file in files]
        self._types = ColumnTypes()
        self._learn_columns()
        columns = self._types.names
        self._map: ColumnMap = map_columns(job, columns)
        self._where = self._on_typed_rows(compile_where(job, columns))
        template = self._on_typed_rows(compile_template(job, columns))
        self._grammar = None if job.spec.prompts.grammar is None else PromptGrammar(job)
        self._check_binary()
        surrogates = not files or any(file.format in ROWS_WITH_NAMES for file in files)
        self._parser = PromptParser(
            job, self._map, self._types, template, self._problems, may_hold_surrogates=surrogates, format=format
        )

    @property
    def passed_schema(self) -> pa.Schema:
        """Columns that pass through, under their new names."""
        return pa.schema([(new, self._types.type_of(old)) for old, new in self._map.passed.items()])

    @property
    def other_types(self) -> dict[str, str]:
        """Types of the columns of parameters that only the backend has and that rows set, in the order of the fields.

        A rule of the card says it, else what the dataset's column is.
        """
        spec, card = self._job.spec, self._job.card
        of_columns = {name: str(self._types.type_of(column)) for name, column in self._map.others.items()}
        return {name: rule_type(card, spec.task, name) or type_ for name, type_ in of_columns.items()}

    def notes(self) -> Iterator[str]:
        """What a person should know of the files and columns; the rows have been read."""
        yield from self._map.notes
        yield from find_idle_columns(self._job, self._map)
        for file in self._files:
            yield from file.source.notes
        for file in self._files:
            yield from sorted(file.notes)

    @property
    def signed_images(self) -> bool:
        """Whether URLs of input images that were read gave access."""
        return self._parser.signed_images

    def prompts(self) -> Iterator[Prompt]:
        """Every prompt, in order.

        Raises:
            SpecError: rows are wrong, ids repeat, or there is no prompt at all.
        """
        hashes = array("Q") if "id" in self._map.fields else None
        empty = True
        for row in self._parser.look_ahead(self._chosen_rows()):
            prompt = self._parser.parse(row)
            if prompt is None:
                continue
            empty = False
            if hashes is not None:
                hashes.append(_hash64(prompt.id))
            yield from [prompt] if self._grammar is None else self._expanded(row, prompt, self._grammar)
        self._problems.raise_any()
        if empty:
            where = self._job.at("prompts.source")
            hint = "`where` leaves none over" if self._where else "every prompt becomes a request; there must be one"
            raise SpecError(f"{where}: there is no prompt ({hint})")
        if hashes is not None:
            self._check_unique(hashes)

    def _expanded(self, row: SourceRow, prompt: Prompt, grammar: PromptGrammar) -> list[Prompt]:
        try:
            return grammar.expand(prompt)
        except ValueError as error:
            self._problems.add(f"{row.place}: {error}")
            return []

    def image_names(self) -> Iterator[tuple[str, str]]:
        """Folder of its file, and name, of every input image and mask that the chosen rows name; opens none.

        Raises:
            SpecError: rows cannot be read.
        """
        columns = [column for field in ("image", "mask") if (column := self._map.fields.get(field)) is not None]
        if not columns:
            return
        for row in self._chosen_rows():
            for column in columns:
                if isinstance(name := row.values.get(column), str) and name:
                    yield row.folder, name
        self._problems.raise_any()

    def _learn_columns(self) -> None:
        if not self._files:
            for row in self._inline_rows():
                self._types.see_row(row.values)
        for file in self._files:
            schema = file.arrow_schema()
            if schema is not None:
                self._types.see_schema(schema)
            elif file.source.format in TABLES and self._job.version > 1:
                self._types.see_cells(dict.fromkeys(file.header() or (), ""))
                for _, values in file.rows():
                    self._types.see_cells(values)
            elif (header := file.header()) is not None:
                self._types.see_columns(header)
            else:
                for _, values in file.rows():
                    self._types.see_row(values)
        self._problems.raise_any()

    def _on_typed_rows(
        self, compiled: Callable[[Mapping[str, Any]], _Result] | None
    ) -> Callable[[Mapping[str, Any]], _Result] | None:
        if compiled is None:
            return None
        return lambda row: compiled(self._types.typed_row(row))

    def _check_binary(self) -> None:
        for file in self._files:
            schema = file.arrow_schema()
            if schema is None:
                continue
            for field in schema:
                if field.name in self._map.passed and holds_bytes(field.type):
                    place = self._job.at("prompts.source")
                    self._problems.add(
                        f"{place}: column {field.name!r} of {file.source.name} holds binary data (drop: [{field.name}])"
                    )
        self._problems.raise_any()

    def _inline_rows(self) -> Iterator[SourceRow]:
        source = self._job.spec.prompts.source
        folder = str(self._job.base_dir.absolute())
        for number, item in enumerate(source if isinstance(source, list) else ()):
            place = self._job.at(("prompts", "source", number))
            if isinstance(item, dict) and (text := _colon_text(item)) is not None:
                self._problems.add(f'{place}: YAML reads this as a mapping (put the prompt into quotes: "{text}")')
            yield SourceRow(place, 0, folder, number, {"prompt": item} if isinstance(item, str) else item)

    def _rows(self) -> Iterator[SourceRow]:
        if not self._files:
            yield from self._inline_rows()
        number = 0
        for file in self._files:
            for line, values in file.rows():
                yield SourceRow(file, line, file.source.folder, number, values)
                number += 1

    def _chosen_rows(self) -> Iterator[SourceRow]:
        prompts = self._job.spec.prompts
        rows: Iterable[SourceRow] = self._rows()
        if self._where is not None:
            rows = self._filter(rows)
        if prompts.shuffle is not None:
            rows = shuffle_rows(rows, prompts.shuffle)
        for taken, row in enumerate(rows):
            if taken == prompts.limit:
                return
            yield row

    def _filter(self, rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        assert self._where is not None
        for row in rows:
            try:
                if self._where(row.values):
                    yield row
            except RowError as error:
                self._problems.add(f"{row.place}: {error}")

    def _check_unique(self, hashes: array[int]) -> None:
        """Equal ids have equal hashes, so only rows whose hash repeats are looked at, in a second reading."""
        values = np.frombuffer(hashes, dtype=np.uint64)
        values.sort()
        repeated = frozenset(np.unique(values[1:][values[1:] == values[:-1]]).tolist())
        if not repeated:
            return
        first: dict[str, str] = {}
        for row in self._chosen_rows():
            id_ = self._parser.id_of(row)
            if _hash64(id_) not in repeated:
                continue
            if id_ in first:
                self._problems.add(f"{row.place}: id {id_!r} is that of {first[id_]} too (ids must be unique)")
            first.setdefault(id_, row.place)
        self._problems.raise_any()


def _colon_text(item: Mapping[str, Any]) -> str | None:
    """The prompt that a mapping was meant to be: one key of several words, which is a part of a sentence."""
    if len(item) != 1:
        return None
    ((key, value),) = item.items()
    if " " not in key.strip() or isinstance(value, list | dict):
        return None
    return f"{key}: {'' if value is None else value}".strip()


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
