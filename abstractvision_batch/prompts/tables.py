"""The records of csv and tsv files: their separator, their quotes, and what stands around their cells.

csv follows RFC 4180: a cell that begins with a quote ends with one, and a quote in it is doubled. Spaces around a cell,
in front of its quotes too, are not part of it; what stands in the quotes is. A tsv cell is unquoted where its quotes
are those of RFC 4180, and otherwise left as it stands: PartiPrompts has a prompt that begins with a quoted word.

Not covered: what the columns are for (`mapping`), the types of cells (`column_types`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_CELL_CHARACTERS = 16 << 20
#: Lines that say which separator a file has.
SAMPLE_LINES = 50
#: A quoted tsv field may go on over this many lines before its quote is taken for a character.
_MAX_TSV_RECORD_LINES = 200
#: Excel's own way to name the separator, in front of the header.
_SEP_LINE = re.compile(r'"?sep=([,;|\t])"?[,;|\s]*', re.IGNORECASE)
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_SPACES = re.compile(r"[ \t]*")
_NO_SPACES = re.compile("")
_QUOTED_TEXT = re.compile(r'(?:[^"]|"")*+')

Line = tuple[int, str]
Record = tuple[int, list[str]]


class TableError(Exception):
    """A record is not what its format says; `line` is where it begins."""

    def __init__(self, message: str, line: int = 0, *, unclosed: bool = False) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line
        self.unclosed = unclosed


def read_records(lines: Iterable[Line], separator: str, *, find: bool) -> Iterator[Record]:
    """Yield the records of a table, the header first, each with the line that it begins on.

    Args:
        lines: Its lines, numbered, with their line ends.
        separator: What its name says that it has.
        find: Whether another separator is looked for, blank records are left out, and spaces around cells are too.

    Raises:
        TableError: a quote is not closed, or text follows one that is.
    """
    lines = iter(lines)
    if find:
        sample = list(islice(lines, SAMPLE_LINES))
        separator, skipped = _find_separator(sample, separator)
        lines = chain(sample[skipped:], lines)
    if separator == "\t":
        records = _tsv_records(lines)
        return ((line, [cell.strip() for cell in cells]) for line, cells in records) if find else records
    return _csv_records(lines, separator, strip=find)


def _find_separator(sample: Sequence[Line], usual: str) -> tuple[str, int]:
    """The separator of a table, and how many lines before its header say so.

    Another one than the usual is taken only where that leaves one column, or records of many widths, and the other
    gives most of them the width of the header.
    """
    if sample and (said := _SEP_LINE.fullmatch(sample[0][1].strip())):
        return said[1], 1
    fitting = {}
    for separator in SEPARATORS:
        header, *widths = _widths(sample, separator) or [0]
        counted = Counter(widths)
        if header > 1 and counted[header] * 2 >= len(widths):
            fitting[separator] = counted[header] == len(widths)
    if usual in fitting or len(fitting) != 1:
        return usual, 0
    return next(iter(fitting)), 0


def _widths(sample: Sequence[Line], separator: str) -> list[int]:
    """Cells of each record, without empty ones at its end; the last record may not be whole."""
    widths = []
    try:
        for _, cells in _csv_records(iter(sample), separator, strip=True):
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                widths.append(len(cells))
    except TableError:
        pass
    return widths


def _csv_records(lines: Iterator[Line], separator: str, *, strip: bool) -> Iterator[Record]:
    for line, text in lines:
        if '"' in text:
            cells = _quoted_record(line, text, lines, separator, strip=strip)
        else:
            plain = text.rstrip("\r\n")
            if not plain:
                continue
            cells = plain.split(separator)
            if strip:
                cells = [cell.strip() for cell in cells]
        if strip and not any(cells):
            continue
        yield line, cells


def _quoted_record(start: int, text: str, lines: Iterator[Line], separator: str, *, strip: bool) -> list[str]:
    """The cells of a record with quotes, which may go on over further lines."""
    spaces = _SPACES if strip else _NO_SPACES
    cells: list[str] = []
    place = 0
    while True:
        opened = spaces.match(text, place)
        if opened is None or not text.startswith('"', opened.end()):
            end = text.find(separator, place)
            cell = text[place:] if end < 0 else text[place:end]
            cell = cell.rstrip("\r\n") if end < 0 else cell
            cells.append(cell.strip() if strip else cell)
            if end < 0:
                return cells
            place = end + 1
            continue
        value, text, place = _quoted_cell(start, text, opened.end() + 1, lines)
        cells.append(value)
        after = spaces.match(text, place)
        place = place if after is None else after.end()
        if not text[place:].strip("\r\n"):
            return cells
        if not text.startswith(separator, place):
            raise TableError(f"{text[place : place + 20].strip()!r} stands after a closing quote", start)
        place += 1


def _quoted_cell(start: int, text: str, place: int, lines: Iterator[Line]) -> tuple[str, str, int]:
    """The text of a quoted cell, the line that it ends on, and the place behind its closing quote."""
    pieces: list[str] = []
    size = 0
    while True:
        found = _QUOTED_TEXT.match(text, place)
        pieces.append("" if found is None else found[0])
        place = len(text) if found is None else found.end()
        size += len(pieces[-1])
        if place < len(text):
            return "".join(pieces).replace('""', '"'), text, place + 1
        if size > MAX_CELL_CHARACTERS:
            raise TableError("a quoted cell is longer than 16 Mi characters", start)
        _, text = next(lines, (0, ""))
        place = 0
        if not text:
            raise TableError("a quoted cell is not closed: the file ends in it", start, unclosed=True)


def _tsv_records(lines: Iterator[Line]) -> Iterator[Record]:
    waiting: list[Line] = []
    width: int | None = None
    while True:
        number, text = waiting.pop(0) if waiting else next(lines, (0, ""))
        if not text:
            return
        if not text.strip("\r\n"):
            continue
        cells = text.rstrip("\r\n").split("\t")
        if '"' in text:
            cells = _unquoted(text, cells, width, waiting, lines)
        width = width or len(cells)
        yield number, cells


def _unquoted(
    text: str, literal: list[str], width: int | None, waiting: list[Line], lines: Iterator[Line]
) -> list[str]:
    """One record's cells; takes the lines that a quoted field goes on over out of `waiting`."""
    plain = [_unquote(cell) for cell in literal]
    left_open = literal[-1].startswith('"') and text.count('"') % 2 == 1
    if width is None or (len(literal) == width and not left_open):
        return plain
    record = text
    for taken in range(_MAX_TSV_RECORD_LINES):
        try:
            whole = iter([(0, line) for line in _LINES.findall(record)])
            records = [cells for _, cells in _csv_records(whole, "\t", strip=False)]
        except TableError as error:
            if not error.unclosed:
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


def _unquote(cell: str) -> str:
    """The cell without the quotes of RFC 4180, or as it is if its quotes are not of that kind."""
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inner = cell[1:-1]
    return inner.replace('""', '"') if '"' not in inner.replace('""', "") else cell
