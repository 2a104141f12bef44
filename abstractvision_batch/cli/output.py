"""Printing for people and for programs: JSON, tables, and numbers in words."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from abstractvision_batch.text.redaction import printable, redact

#: Width of a table that no terminal shows: nothing is cut for grep.
UNLIMITED_WIDTH = 100_000


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout, in ASCII so that every encoding can carry it.

    What JSON has no word for, as the columns of a prompt data set may hold, becomes null (NaN) or text (a date).
    """
    sys.stdout.write(json.dumps(_without_nan(data), allow_nan=False, default=str) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_lines(*lines: str) -> None:
    """Lines of text on stdout; what of them would steer the terminal is replaced."""
    sys.stdout.write(printable("".join(f"{line}\n" for line in lines)))


def print_notes(*lines: str) -> None:
    """Lines of text on stderr: what is no result; cleaned as on stdout."""
    sys.stderr.write(printable("".join(f"{line}\n" for line in lines)))


class NotesHandler(logging.Handler):
    """Prints log records as notes, without secrets."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        try:
            print_notes(redact(self.format(record)))
        except BrokenPipeError:
            self.handleError(record)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table without borders; a terminal's width cuts it, a pipe's does not."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else UNLIMITED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text("" if cell is None else one_line(cell)) for cell in row))
    with console.capture() as captured:
        console.print(table, markup=False, highlight=False)
    # Not cleaned again: the cells are, and a terminal has its bold header.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def one_line(value: object, *, width: int | None = None) -> str:
    """A value as one printable line: no line breaks, no control characters, cut to `width` characters."""
    text = " ".join(str(value).split())
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def plural(count: int, noun: str) -> str:
    """`1 row`, `1,632 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_size(size_bytes: float) -> str:
    """Bytes in decimal units: `412 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 100 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def format_cost(cost_usd: float, attempts: int) -> str:
    """`$12.50 for 1,632 tries`, `$0.0042 for 1 try`."""
    from abstractvision_batch.registry.prices import format_usd

    return f"{format_usd(cost_usd)} for {'1 try' if attempts == 1 else f'{attempts:,} tries'}"


def format_duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def format_rate(per_second: float) -> str:
    """Requests in the unit that leaves a number to read: `12/s`, `4.2/min`, `1.5/h`."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        value = per_second * seconds
        if value >= 1 or unit == "h":
            return f"{value:,.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"
    raise AssertionError("unreachable")
