"""The cells of csv and tsv files as templates see them: a number or truth value that is printed as it was written.

A column is typed as a whole: `score > 0.5` compares numbers where every cell is one. Because a table has nothing but
text, a cell is also equal to its text (`ok == 'true'`), and `{{ price }}` prints 0.50 where the file says so. What is
not written as a number usually is stays text: 007, +1, 1e5, ١٢, integers beyond 64 bits.

An empty cell is null in a column of numbers or truth values, and an empty text in any other.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
#: With a point, or with an exponent that has a sign, as programs write small numbers; 1e5 may be a code.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]{1,2})?|[eE][+-][0-9]{1,2})")
_TRUTH = {"true": True, "false": False}
_INT64 = 2**63
_MAX_NUMBER_CHARACTERS = 64


class Cell:
    """A value with the text that it was written as, to which it is equal too."""

    written: str

    def __str__(self) -> str:
        return self.written

    def __eq__(self, other: object) -> bool:
        return self.written == other if isinstance(other, str) else bool(super().__eq__(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    # Of the number: what looks a cell up by its text finds nothing, as with any number.
    __hash__: ClassVar[Any]


class IntegerCell(Cell, int):
    """A whole number."""

    __hash__ = int.__hash__

    def __new__(cls, text: str) -> IntegerCell:
        cell = super().__new__(cls, text)
        cell.written = text
        return cell


class NumberCell(Cell, float):
    """A number."""

    __hash__ = float.__hash__

    def __new__(cls, text: str) -> NumberCell:
        cell = super().__new__(cls, text)
        cell.written = text
        return cell


class TruthCell(Cell, int):
    """True or false, which Python lets nobody inherit from."""

    __hash__ = int.__hash__

    def __new__(cls, text: str) -> TruthCell:
        cell = super().__new__(cls, _TRUTH[text.lower()])
        cell.written = text
        return cell


#: Jinja's tests that ask for Python's own `True` and `False`.
TESTS = {
    "true": lambda value: value is True or (isinstance(value, TruthCell) and value == 1),
    "false": lambda value: value is False or (isinstance(value, TruthCell) and value == 0),
    "boolean": lambda value: isinstance(value, bool | TruthCell),
}


def value_of(text: str) -> str | int | float | bool | None:
    """Return the value that a cell is written as: a truth value, a number, None where it is empty, else its text."""
    if not text:
        return None
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return text
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if _INTEGER.fullmatch(text):
        return number if -_INT64 <= (number := int(text)) < _INT64 else text
    # Three digits of an exponent are left out above, so no number is infinite.
    return float(text) if _NUMBER.fullmatch(text) else text
