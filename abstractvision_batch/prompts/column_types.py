"""Arrow types of the dataset columns that pass through to the manifest, and the values made to fit them.

A column is int64, float64, bool or string where all its values are; a column of mixed scalars is their text, and one
that holds lists or objects is JSON text throughout, so `datasets` and SQL engines read every one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from abstractvision_batch.prompts.cells import Cell, IntegerCell, NumberCell, TruthCell, value_of

_INT, _FLOAT, _BOOL, _STRING, _NESTED, _HUGE = (1 << bit for bit in range(6))
#: A scalar that is no text yet, such as a date.
_TEXT = _STRING | _HUGE
_TYPES: dict[int, pa.DataType] = {
    _INT: pa.int64(),
    _FLOAT: pa.float64(),
    _INT | _FLOAT: pa.float64(),
    _BOOL: pa.bool_(),
}
_EXACT_FLOAT = 2**53
_INT64 = 2**63


class ColumnTypes:
    """Learns the types of columns from values, in order of first sight."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._cells: set[str] = set()

    def see_columns(self, names: list[str]) -> None:
        """Note columns whose values are text, as those of csv are."""
        for name in names:
            self._seen[name] = self._seen.get(name, 0) | _STRING

    def see_cells(self, row: Mapping[str, str]) -> None:
        """Note the cells of one row of a table, which are text that may be written as a number or truth value."""
        seen = self._seen
        for name, text in row.items():
            kinds = seen.get(name, 0)
            # A text column stays one, whatever its other cells are.
            seen[name] = kinds if kinds & _STRING else kinds | _kind_of_value(value_of(text))
        self._cells.update(row)

    def see_schema(self, schema: pa.Schema) -> None:
        """Note the columns of a Parquet file."""
        for field in schema:
            self._seen[field.name] = self._seen.get(field.name, 0) | _kind_of_type(field.type)

    def see_row(self, row: Mapping[str, Any]) -> None:
        """Note the columns and values of one row."""
        seen = self._seen
        for name, value in row.items():
            seen[name] = seen.get(name, 0) | _kind_of_value(value)

    @property
    def names(self) -> list[str]:
        """Columns in order of first sight."""
        return list(self._seen)

    def type_of(self, name: str) -> pa.DataType:
        """The narrowest type that holds every value seen; string for a column without any."""
        return _TYPES.get(self._seen[name], pa.string())

    def converter(self, name: str) -> Callable[[Any], Any] | None:
        """What makes a non-null value fit `type_of`; None where values fit as they are."""
        kinds = self._seen[name]
        if name in self._cells and (type_ := _TYPES.get(kinds)) is not None:
            return partial(_of_cell, float if pa.types.is_floating(type_) else None)
        if kinds & _NESTED:
            return _to_json
        if kinds in (0, _STRING, _INT, _FLOAT, _BOOL):
            return None
        return float if kinds == _INT | _FLOAT else _to_text

    def typed_row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row as templates see it: cells of typed columns are values."""
        typed = {
            name: read(text) if text else None
            for name in self._cells
            if (read := _CELLS.get(self._seen[name])) is not None and isinstance(text := row.get(name), str)
        }
        return {**row, **typed} if typed else row


def _read_number(text: str) -> Cell:
    return IntegerCell(text) if isinstance(value_of(text), int) else NumberCell(text)


#: How cells of a column are read for templates, by what the column holds.
_CELLS: dict[int, Callable[[str], Cell]] = {
    _INT: IntegerCell,
    _FLOAT: NumberCell,
    _INT | _FLOAT: _read_number,
    _BOOL: TruthCell,
}


def _of_cell(convert: Callable[[Any], Any] | None, value: Any) -> Any:
    """The value of a cell of a typed column; a column may be one of other files too, which have values."""
    if isinstance(value, str):
        value = value_of(value)
    return value if convert is None or value is None else convert(value)


def _kind_of_value(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _INT | (0 if -_EXACT_FLOAT <= value <= _EXACT_FLOAT else _wide(value))
    if isinstance(value, float):
        return _FLOAT
    if isinstance(value, str):
        return _STRING
    return _NESTED if isinstance(value, list | dict) else _TEXT


def _wide(value: int) -> int:
    """An integer beyond int64 makes the column text."""
    return 0 if -_INT64 <= value < _INT64 else _HUGE


def _kind_of_type(type_: pa.DataType) -> int:
    if pa.types.is_dictionary(type_):
        return _kind_of_type(type_.value_type)
    if pa.types.is_null(type_):
        return 0
    if pa.types.is_boolean(type_):
        return _BOOL
    if pa.types.is_uint64(type_):
        return _HUGE
    if pa.types.is_integer(type_):
        return _INT
    if pa.types.is_floating(type_):
        return _FLOAT
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return _STRING
    return _NESTED if pa.types.is_nested(type_) else _TEXT


def _to_json(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    return json.dumps(value, ensure_ascii=False, default=str)


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def holds_bytes(type_: pa.DataType) -> bool:
    """Whether a Parquet column carries binary data somewhere, which text cannot."""
    if pa.types.is_dictionary(type_):
        return holds_bytes(type_.value_type)
    if type_.num_fields:
        return any(holds_bytes(type_.field(i).type) for i in range(type_.num_fields))
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )
