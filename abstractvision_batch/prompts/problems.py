"""Collects what is wrong with a prompt dataset, so that a person sees the first twenty problems together."""

from __future__ import annotations

from collections.abc import Sequence

from abstractvision_batch.errors import SpecError
from abstractvision_batch.text.suggestions import did_you_mean

MAX_PROBLEMS = 20


class Problems:
    """A list of ``where: what (what would do)`` lines that becomes one `SpecError`."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, line: str) -> None:
        """Note a problem; those beyond what a person wants to read at once are counted."""
        self._count += 1
        if len(self._lines) < MAX_PROBLEMS:
            self._lines.append(line)

    def raise_any(self) -> None:
        """Raise what was noted, if anything was.

        Raises:
            SpecError: with every line noted so far, and how many more there are.
        """
        if self._lines:
            more = self._count - len(self._lines)
            lines = (*self._lines, *([f"and {more:,} problems more"] if more else []))
            raise SpecError("\n".join(lines), problems=lines, count=self._count)


def suggest(wrong: str, columns: Sequence[str]) -> str:
    """``did you mean X?`` and the columns that there are."""
    near = did_you_mean(wrong, columns)
    return f"did you mean {near}? {list_columns(columns)}" if near else list_columns(columns)


def list_columns(columns: Sequence[str]) -> str:
    """``columns: a, b``, cut where there are many."""
    return "columns: " + (", ".join(columns[:20]) + (", …" if len(columns) > 20 else "") or "none")
