"""Where every key and value of a spec stands, and how a field's path is written.

A path is a tuple of mapping keys and list indexes: ``("matrix", "steps", 1)`` reads ``matrix.steps[1]``. A field is
placed at its key, a list's element at itself; a field that is not in the file is placed where its parent is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.text.redaction import redact

FieldPath = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the YAML with its place (1-based); `value` is a scalar, a list of nodes or a mapping of nodes.

    `broken` marks a scalar that the reader has already complained about.
    """

    value: Any
    line: int
    column: int
    keys: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Positions:
    """Finds the place of a field: ``specs/x.yaml:9:5``, ``--set params.steps=abc``, or ``<spec>`` for a mapping."""

    file: str
    root: Node | None = None
    overrides: Mapping[FieldPath, str] = field(default_factory=dict)
    bases: tuple[tuple[str, Node], ...] = ()
    """Documents that this one is merged over, the nearest first; a field stands in the first that has it."""

    def place(self, path: FieldPath) -> FieldPath:
        """Return the path in the file of what stands for a field."""
        return path

    def within(self, path: FieldPath) -> FieldPath | None:
        """Return the field that a path in the file stands for; None where it stands for none."""
        return path

    def where(self, path: FieldPath) -> str:
        """Place of the field, or of its nearest parent that is written down."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
        number, line_column = self._find(path)
        file = (self.file, *(name for name, _ in self.bases))[number]
        return file if line_column is None else f"{file}:{line_column[0]}:{line_column[1]}"

    def problem(self, path: FieldPath, message: str) -> str:
        """One line: ``place: field: what``."""
        name = format_path(path)
        return f"{self.where(path)}: {name}: {message}" if name else f"{self.where(path)}: {message}"

    def sort_key(self, path: FieldPath) -> tuple[int, ...]:
        """Orders problems as they stand in the file, then in its bases, overrides last."""
        if self.is_overridden(path):
            return (1, 0, 0, 0)
        number, line_column = self._find(path)
        return (0, number, *(line_column or (0, 0)))

    def is_overridden(self, path: FieldPath) -> bool:
        """Whether ``--set`` gave the field."""
        return any(path[:length] in self.overrides for length in range(1, len(path) + 1))

    def _find(self, path: FieldPath) -> tuple[int, tuple[int, int] | None]:
        """Number of the document that has most of the path, the nearest of several, and the place in it."""
        roots = (self.root, *(root for _, root in self.bases))
        found = [(0, None) if root is None else _find_in(root, path) for root in roots]
        number = max(range(len(found)), key=lambda number: found[number][0])
        return number, found[number][1]


def _find_in(root: Node, path: FieldPath) -> tuple[int, tuple[int, int]]:
    """How many parts of a path there are, and where the last of them stands."""
    node, found = root, (root.line, root.column)
    for depth, part in enumerate(path):
        if isinstance(node.value, dict) and isinstance(part, str) and part in node.value:
            found, node = node.keys[part], node.value[part]
        elif isinstance(node.value, list) and isinstance(part, int) and 0 <= part < len(node.value):
            node = node.value[part]
            found = (node.line, node.column)
        else:
            return depth, found
    return len(path), found


def format_path(path: FieldPath) -> str:
    """``("matrix", "steps", 1)`` → ``matrix.steps[1]``; an odd key is quoted in brackets."""
    parts: list[str] = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif len(part) <= _SHOWN_CHARACTERS and _PLAIN_KEY.fullmatch(part):
            parts.append(f".{part}" if parts else part)
        else:
            parts.append(f"[{show(part)}]")
    return "".join(parts)


def show(value: object) -> str:
    """A value as a message quotes it: one line, JSON-like, cut when long, without keys and passwords."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    if isinstance(value, str):
        value = redact(value)
        text = json.dumps(value[: _SHOWN_CHARACTERS + 1], ensure_ascii=False)
        text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
        return text if len(value) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…"'
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def plain_value(node: Node) -> Any:
    """The value without places: dicts, lists and scalars; a broken scalar is None."""
    if isinstance(node.value, dict):
        return {key: plain_value(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain_value(child) for child in node.value]
    return node.value


def broken_paths(node: Node, path: FieldPath = ()) -> Iterator[FieldPath]:
    """Paths that the reader has complained about."""
    if node.broken:
        yield path
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from broken_paths(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from broken_paths(child, (*path, index))
