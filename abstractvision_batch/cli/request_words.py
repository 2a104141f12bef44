"""A request as words: a prompt and `--flags`, each a parameter, or what only the backend knows.

Quotes count only around a whole word, so an apostrophe needs no care; in a prompt of several words they stay as they
are, since a prompt may quote a sign's text. A value is YAML: a number, `true`, `[a, b]`, or text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.documents.positions import plain_value
from abstractvision_batch.documents.yaml_reader import read_value
from abstractvision_batch.errors import SpecError

#: Parameters whose value is text, whatever it looks like.
_TEXTS = frozenset({"prompt", "negative_prompt"})
_FILES = ("image", "mask")
_WORD = re.compile(r"""(--[\w-]+=)?("([^"]*)"|'([^']*)')(?=\s|$)|\S+""")
_FLAG = re.compile(r"--([A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Word:
    """One word: as typed, and without its quotes."""

    typed: str
    value: str


@dataclass(frozen=True, slots=True)
class RequestWords:
    """What a line asks for; `files` are paths by `image` and `mask`."""

    prompt: str | None
    params: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    wants_open: bool = False


def split_words(text: str) -> list[Word]:
    """Split a line into words."""
    words = []
    for match in _WORD.finditer(text):
        inner = match[3] if match[3] is not None else match[4]
        words.append(Word(match[0], match[0] if inner is None else (match[1] or "") + inner))
    return words


def parse_value(name: str, text: str) -> Any:
    """Return a parameter's value; views are also taken as `front,back`.

    Raises:
        SpecError: it is no YAML.
    """
    if name in _TEXTS:
        return text
    value = plain_value(read_value(text, f"--{name.replace('_', '-')}"))
    return [part.strip() for part in value.split(",")] if name == "angles" and isinstance(value, str) else value


def parse_assignments(option: str, texts: list[str]) -> dict[str, Any]:
    """Return what repeated options of the form `key=value` say.

    Raises:
        SpecError: one is not of that form.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SpecError(f"{option} {text}: is not of the form key=value")
        found[name.strip()] = parse_value(name.strip(), value)
    return found


def take_flags(words: list[Word], *, bare: tuple[str, ...] = ()) -> tuple[list[Word], dict[str, str | None]]:
    """Part words from flags; a flag takes the next word as its value unless that is a flag too, or it is a bare one."""
    rest: list[Word] = []
    flags: dict[str, str | None] = {}
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        flag = _FLAG.fullmatch(word.value) if word.typed.startswith("--") else None
        if flag is None:
            rest.append(word)
            continue
        name, value = flag[1].replace("-", "_"), flag[2]
        if value is None and name not in bare and at < len(words) and not _FLAG.fullmatch(words[at].typed):
            value, at = words[at].value, at + 1
        flags[name] = value
    return rest, flags


def parse_request(text: str) -> RequestWords:
    """Read a prompt with flags.

    Raises:
        SpecError: a value is no YAML, or a file has no path.
    """
    words, flags = take_flags(split_words(text), bare=("open",))
    wants_open = "open" in flags
    flags.pop("open", None)
    files = {name: flags.pop(name) for name in _FILES if name in flags}
    for name, path in files.items():
        if not path:
            raise SpecError(f"--{name}: needs the path of a file")
    params = {name: True if value is None else parse_value(name, value) for name, value in flags.items()}
    prompt = words[0].value if len(words) == 1 else " ".join(word.typed for word in words)
    return RequestWords(prompt or None, params, {name: path for name, path in files.items() if path}, wants_open)
