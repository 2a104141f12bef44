"""Data as YAML that a person reads: in the order it was made, with comments, and with strings that stay strings.

A comment is a key of a mapping, `Note("why")`, whose value is None: it is written above the key that follows it. YAML
1.1 and 1.2 disagree on what is a string without quotes (`on`, `0o7`, `1e3`, `1:30`), so what might be anything else has
quotes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+-]+)*")
_NOT_PLAIN = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"))
#: Line breaks to YAML 1.1, and not to 1.2.
_ODD_BREAKS = re.compile("[\x85\u2028\u2029]")
_NO_LIMIT = 1_000_000


class Note(str):
    """A comment, as a key of a mapping; not the first one of a mapping in a list."""

    __slots__ = ()


def write_yaml(data: Mapping[str, Any]) -> str:
    """One document."""
    mark = uuid.uuid4().hex  # no text of the data has a line of it
    notes: list[str] = []

    class Dumper(yaml.SafeDumper):
        """Without aliases, and with lists indented below their key."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def represent_note(dumper: yaml.SafeDumper, note: Note) -> yaml.ScalarNode:
        notes.append(note)
        return dumper.represent_scalar("tag:yaml.org,2002:str", f"n{mark}-{len(notes) - 1}")

    Dumper.add_representer(str, _represent_text)
    Dumper.add_representer(Note, represent_note)
    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, width=_NO_LIMIT, allow_unicode=True)
    return re.sub(rf"n{mark}-(\d+): null", lambda found: f"# {notes[int(found[1])]}", text)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN
    block = "\n" in text and not _ODD_BREAKS.search(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "|" if block else '"')
