"""A request as words: a prompt and `--flags`, each a parameter, or what only the backend knows.

Quotes count only around a whole word, so an apostrophe needs no care; in a prompt of several words they stay as they
are, since a prompt may quote a sign's text. A value is YAML: a number, `true`, `[a, b]`, or text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.errors import SpecError
from abstractvision_batch.spec.positions import plain_value
from abstractvision_batch.spec.yaml_reader import read_value

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


def parse_extra(texts: list[str]) -> dict[str, Any]:
    """Return what `--extra key=value` options say.

    Raises:
        SpecError: one is not of that form.
    """
    extra = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SpecError(f"--extra {text}: is not of the form key=value")
        extra[name.strip()] = parse_value(name.strip(), value)
    return extra


def parse_request(text: str) -> RequestWords:
    """Read a prompt with flags; a flag takes the next word as its value unless that is a flag too.

    Raises:
        SpecError: a value is no YAML, or a file has no path.
    """
    words = split_words(text)
    prompt: list[Word] = []
    params: dict[str, Any] = {}
    files: dict[str, str] = {}
    wants_open = False
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        flag = _FLAG.fullmatch(word.value) if word.typed.startswith("--") else None
        if flag is None:
            prompt.append(word)
            continue
        name, value = flag[1].replace("-", "_"), flag[2]
        if name == "open":
            wants_open = True
            continue
        if value is None and at < len(words) and not _FLAG.fullmatch(words[at].typed):
            value, at = words[at].value, at + 1
        if name in _FILES:
            if not value:
                raise SpecError(f"--{name}: needs the path of a file")
            files[name] = value
        else:
            params[name] = True if value is None else parse_value(name, value)
    text = prompt[0].value if len(prompt) == 1 else " ".join(word.typed for word in prompt)
    return RequestWords(text or None, params, files, wants_open)
