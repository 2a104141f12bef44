"""A manifest as columns for a page: few-valued ones as a dictionary and codes, many-valued numbers as doubles.

Filters and searches then look at each value once and at rows by number alone, so a million rows answer at once. Numbers
are little-endian, packed as base64 of gzip, which every browser unpacks by itself.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Numbers with more values than these are kept as they are.
MAX_VALUES = 1000
#: Whole numbers beyond this have no exact double.
EXACT = 2**53
_LEVEL = 6


def pack(data: bytes) -> str:
    """Compress bytes to text that JavaScript can hold."""
    return base64.b64encode(gzip.compress(data, _LEVEL, mtime=0)).decode()


def pack_json(value: Any) -> str:
    """Compress a value as JSON; NaN and infinities, which JSON has not, become null."""
    return pack(json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())


def is_number(type_: pa.DataType) -> bool:
    """Tell whether a column holds whole or real numbers."""
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def as_text(array: pa.Array) -> pa.Array:
    """Return a column that is neither number nor text as text: JSON of lists and mappings, `true` and `false`."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return array
    if pa.types.is_boolean(array.type) or pa.types.is_temporal(array.type):
        return pc.cast(array, pa.string())
    values = array.to_pylist()
    return pa.array(
        [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values], pa.string()
    )


class ColumnEncoder:
    """Takes one column of the rows, some at a time, and ends as what the page reads."""

    def __init__(self, name: str, type_: pa.DataType) -> None:
        self._name = name
        self._number = is_number(type_)
        self._whole = bool(pa.types.is_integer(type_))
        self._codes: dict[Any, int] = {}
        self._parts: list[np.ndarray[Any, Any]] = []

    def add(self, array: pa.Array) -> None:
        """Take the values of further rows."""
        if self._number:
            self._parts.append(pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
            return
        encoded = as_text(array).dictionary_encode(null_encoding="encode")
        codes = [self._codes.setdefault(value, len(self._codes)) for value in encoded.dictionary.to_pylist()]
        self._parts.append(np.asarray(codes, np.uint32)[encoded.indices.to_numpy()])

    def finish(self) -> dict[str, Any]:
        """Return the column: `constant`, `numbers`, or `values` with `codes` of 8, 16 or 32 bits."""
        rows = np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint32)
        self._parts = []
        values: list[Any] = list(self._codes)
        if self._number:
            found, codes = np.unique(rows, return_inverse=True)  # NaN, which stands for null, is one value, the last
            if len(found) > MAX_VALUES:
                return {"name": self._name, "numbers": pack(rows.astype("<f8").tobytes())}
            values, rows = [self._plain(value) for value in found.tolist()], codes
        if len(values) < 2:
            return {"name": self._name, "constant": values[0] if values else None}
        bits = 8 if len(values) < 2**8 else 16 if len(values) < 2**16 else 32
        packed = pack(rows.astype(f"<u{bits // 8}").tobytes())
        return {"name": self._name, "number": self._number, "values": pack_json(values), "bits": bits, "codes": packed}

    def _plain(self, value: float) -> float | int | None:
        if math.isnan(value):
            return None
        return int(value) if self._whole else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return value
