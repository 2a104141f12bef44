"""Reads YAML into values with places, and says what is wrong with it in one line each.

The event stream is walked by hand, so that a deep, long or self-multiplying document is refused before it is built.
Scalars follow the YAML 1.2 core schema, as editors and the JSON Schema do: ``no`` and ``2026-01-31`` are text, ``1e-4``
is a number, ``010`` is ten. Mapping keys are always text.

Merge keys (``<<``) are read: a mapping's own keys win over merged ones, of several mappings the first wins. Not
covered: tags other than ``!!str``, several documents in a file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from abstractvision_batch.documents.positions import FieldPath, Node, format_path, show
from abstractvision_batch.errors import SpecError
from abstractvision_batch.storage.regular import open_regular

MAX_FILE_BYTES = 4 * 2**20
MAX_DEPTH = 64
#: More of them are one mistake, made in every element of a list.
MAX_PROBLEMS = 100
INT_LIMIT = 2**63

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULLS = ("", "~", "null", "Null", "NULL")
_CONSTANTS: dict[str, object] = {
    **dict.fromkeys(_NULLS),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_STRING_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document: what messages call it and advise, and what it may hold."""

    name: str
    if_missing: str = ""
    if_large: str = ""
    max_values: int = 50_000
    """Keys and values, those that aliases repeat included."""


_VALUE = Kind("value")


def read_file(path: Path, shown: str, kind: Kind) -> str:
    """Return the text of a file.

    Raises:
        SpecError: missing, a folder, unreadable, larger than 4 MiB or not UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"{shown}: no such file{_advice(kind.if_missing)}") from error
    except IsADirectoryError as error:
        raise SpecError(f"{shown}: is a folder, not a {kind.name} file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        said = error.strerror if isinstance(error, OSError) else None
        raise SpecError(f"{shown}: cannot be read: {said or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"{shown}: larger than {MAX_FILE_BYTES} bytes{_advice(kind.if_large)}")
    if b"\0" in data:
        raise SpecError(f"{shown}: is binary, not YAML text in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise SpecError(
            f"{shown}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8 (save the file as UTF-8)"
        ) from error


def read_yaml(text: str, shown: str, kind: Kind, *, placed: bool = True) -> tuple[Node, list[str]]:
    """Return the top node of a document and what is wrong with single values of it, as whole lines.

    `placed` says whether lines and columns are shown after `shown`.

    Raises:
        SpecError: the text is no YAML, or too deep or too large, so that nothing more can be said about it.
    """
    builder = _Builder(shown, kind, placed=placed)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = builder.at(mark.line + 1, mark.column + 1) if mark else shown
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{where}: not YAML: {what}") from error
    except yaml.reader.ReaderError as error:
        raise SpecError(f"{_place_of_odd_character(text, shown)}: not YAML: a control character") from error
    except UnicodeEncodeError as error:
        raise SpecError(f"{shown}: not YAML: a character that UTF-8 cannot hold") from error
    if builder.root is None or builder.root.value is None:
        raise SpecError(f"{shown}: is empty{_advice(kind.if_missing)}")
    return builder.root, builder.problems


def read_value(text: str, shown: str) -> Node:
    """One YAML value, as the right side of ``--set`` has it; nothing is null."""
    if text.strip() in _NULLS:
        return Node(None, 1, 1)
    root, problems = read_yaml(text, shown, _VALUE, placed=False)
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return root


@dataclass(slots=True)
class _Open:
    """A mapping or a list whose end has not been read."""

    line: int
    column: int
    path: FieldPath
    anchor: str | None
    first_value: int
    items: dict[str, Node] | list[Node]
    keys: dict[str, tuple[int, int]]
    key: str | None = None
    role: Literal["own", "merged", "left out"] = "own"
    """Of the key's value: a field of the mapping, one to merge into it, or one that was complained about."""
    merged: list[Node] = field(default_factory=list)
    """Mappings that are merged in, those that win last."""


class _Builder:
    """Builds the node tree from parser events without recursion, counting what aliases repeat."""

    def __init__(self, shown: str, kind: Kind, *, placed: bool) -> None:
        self.shown = shown
        self.kind = kind
        self.placed = placed
        self.root: Node | None = None
        self.problems: list[str] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}  # node, number of values in it
        self._values = 0
        self._documents = 0

    def at(self, line: int, column: int) -> str:
        return f"{self.shown}:{line}:{column}" if self.placed else self.shown

    def take(self, event: yaml.Event) -> None:
        assert event.start_mark is not None
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                what = f"a second document starts (a {self.kind.name} is one document)"
                raise SpecError(f"{self.at(line, column)}: {what}")
        elif isinstance(event, yaml.AliasEvent):
            self._take_alias(event.anchor or "", line, column)
        elif isinstance(event, yaml.ScalarEvent):
            self._take_scalar(event, line, column)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._open(event, line, column)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()

    def _take_alias(self, anchor: str, line: int, column: int) -> None:
        if anchor not in self._anchors:
            raise SpecError(f"{self.at(line, column)}: *{anchor} refers to nothing written before it")
        node, values = self._anchors[anchor]
        if self._awaits_key():
            raise SpecError(f"{self.at(line, column)}: an alias cannot be a key")
        self._count(values, line, column)
        self._add(Node(node.value, line, column, node.keys))

    def _take_scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> None:
        self._count(1, line, column)
        if self._awaits_key():
            self._take_key(event.value, line, column, plain=event.implicit[0])
            return
        try:
            value = event.value if event.tag == _STRING_TAG else _resolve(event)
            if isinstance(value, str):
                require_storable(value)
            node = Node(value, line, column)
        except ValueError as error:
            self._complain(self._next_path(), str(error), line, column)
            node = Node(None, line, column, broken=True)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1)
        self._add(node)

    def _take_key(self, key: str, line: int, column: int, *, plain: bool) -> None:
        top = self._stack[-1]
        assert isinstance(top.items, dict)
        top.key, top.role = key, "own"
        path = (*top.path, key)
        if key == "<<" and plain:
            top.role = "merged"
        elif key in top.items:
            top.role = "left out"
            first = ":".join(map(str, top.keys[key]))
            self._complain(path, f"written twice (first at {first}; keep one)", line, column)
        else:
            top.keys[key] = (line, column)

    def _open(self, event: Any, line: int, column: int) -> None:
        self._count(1, line, column)
        if self._awaits_key():
            raise SpecError(f"{self.at(line, column)}: a list or mapping cannot be a key (quote text with braces)")
        if len(self._stack) >= MAX_DEPTH:
            raise SpecError(f"{self.at(line, column)}: nested deeper than {MAX_DEPTH} levels")
        path = self._next_path()
        if event.tag is not None and event.tag != "!":
            self._complain(path, f"tag {show(event.tag)} is not read", line, column)
        items: dict[str, Node] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Open(line, column, path, event.anchor, self._values, items, {}))

    def _close(self) -> None:
        done = self._stack.pop()
        items, keys = done.items, done.keys
        if done.merged and isinstance(items, dict):
            items = {key: value for node in done.merged for key, value in node.value.items()} | items
            keys = {key: place for node in done.merged for key, place in node.keys.items()} | keys
        node = Node(items, done.line, done.column, keys)
        if done.anchor is not None:
            self._anchors[done.anchor] = (node, self._values - done.first_value + 1)
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        if isinstance(top.items, list):
            top.items.append(node)
        elif top.key is not None:
            if top.role == "own":
                top.items[top.key] = node
            elif top.role == "merged":
                self._merge(node, top)
            top.key = None

    def _merge(self, node: Node, top: _Open) -> None:
        mappings = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(mapping.value, dict) for mapping in mappings):
            top.merged.extend(reversed(mappings))
        else:
            self._complain((*top.path, "<<"), "is not a mapping, or a list of mappings", node.line, node.column)

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].items, dict) and self._stack[-1].key is None

    def _next_path(self) -> FieldPath:
        if not self._stack:
            return ()
        top = self._stack[-1]
        return (*top.path, len(top.items) if isinstance(top.items, list) else top.key or "")

    def _count(self, values: int, line: int, column: int) -> None:
        self._values += values
        if self._values > (most := self.kind.max_values):
            raise SpecError(
                f"{self.at(line, column)}: more than {most} keys and values, aliases counted"
                f"{_advice(self.kind.if_large)}"
            )

    def _complain(self, path: FieldPath, message: str, line: int, column: int) -> None:
        name = f"{format_path(path)}: " if path else ""
        self.problems.append(f"{self.at(line, column)}: {name}{message}")
        if len(self.problems) >= MAX_PROBLEMS:
            raise SpecError("\n".join(self.problems), problems=tuple(self.problems))


def _resolve(event: yaml.ScalarEvent) -> object:
    """Value of a scalar; a ValueError says why it cannot be one."""
    text: str = event.value
    if event.tag is not None and event.tag != "!":
        raise ValueError(f"tag {show(event.tag)} is not read")
    if event.tag == "!" or not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if _INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        digits = text[2:] if base != 10 else text.lstrip("+-")
        # Longer ones are beyond 64 bits anyway, and Python refuses to convert thousands of digits.
        value = int(digits.lstrip("0") or "0", base) if len(digits.lstrip("0")) <= 24 else INT_LIMIT
        value = -value if text.startswith("-") else value
        if not -INT_LIMIT <= value < INT_LIMIT:
            raise ValueError(
                f"an integer of {len(text.lstrip('+-'))} digits is beyond 64 bits (quote it if it is text)"
            )
        return value
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{show(text)} is beyond the largest number (quote it if it is text)")
        return number
    return text


def require_storable(text: str) -> None:
    """Raises a ValueError for characters that no file name and not every column can hold."""
    if "\0" in text:
        raise ValueError("text with a NUL character in it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text with half a surrogate pair in it") from error


def _advice(text: str) -> str:
    return f" ({text})" if text else ""


def _place_of_odd_character(text: str, shown: str) -> str:
    for number, line in enumerate(text.split("\n"), start=1):
        for column, character in enumerate(line, start=1):
            if (ord(character) < 32 and character not in "\t\r") or ord(character) == 127:
                return f"{shown}:{number}:{column}"
    return shown
