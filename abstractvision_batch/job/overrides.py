"""``--set dotted.key=value``: changes the values of a spec before anything is checked.

The value is YAML (``30``, ``[3, 5]``, ``{kind: procedural}``), elements of a list are reached as ``matrix.steps[0]`` or
``matrix.steps.0``, a key with dots as ``variants["v1.5"]``, missing mappings on the way are made. The name of a
parameter is one key, as ``matrix.extra.clip_skip`` or ``draw.loras[0].scale.uniform``. A key that no spec has is found
by the check that follows, like one in the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, format_path, plain_value, show
from abstractvision_batch.documents.yaml_reader import read_value
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.param_names import OTHER_PATTERN
from abstractvision_batch.text.redaction import redact

_PART = re.compile(r"""([^.\[\]]+)|\[([0-9]{1,9})\]|\["([^"]+)"\]""")
#: What is one key of a mapping of parameters, though it has dots or brackets.
_PARAM = re.compile(rf"(?:{OTHER_PATTERN})(?=[.\[]|$)")
_OF_PARAMS = ("matrix", "zip", "draw", "fields")
_SHOWN_CHARACTERS = 80


def apply_overrides(data: Any, overrides: Sequence[str]) -> tuple[Any, dict[FieldPath, str], list[str]]:
    """Changed copy of `data`, what to show as the place of each changed field, and problems as whole lines."""
    places: dict[FieldPath, str] = {}
    problems: list[str] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        path = _parse_key(key.strip())
        shown = _shown(key.strip(), value if equals else None)
        if not equals or path is None:
            problems.append(f"{shown}: is not of the form dotted.key=value")
            continue
        try:
            new = plain_value(read_value(value, shown))
            data = _replaced(data, path, new, ())
        except SpecError as error:
            problems.extend(error.problems)
        except LookupError as error:
            problems.append(f"{shown}: {error.args[0]}")
        else:
            places = {at: place for at, place in places.items() if at[: len(path)] != path}
            places[path] = shown
    return data, places, problems


def _shown(key: str, value: str | None) -> str:
    if value is not None and any(word in key for word in ("storage_options", "api_key", "env_vars", "headers")):
        value = "…"
    value = None if value is None else redact(value)
    text = key if value is None else f"{key}={value}"
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"--set {text}" if len(text) <= _SHOWN_CHARACTERS else f"--set {text[:_SHOWN_CHARACTERS]}…"


def _parse_key(key: str) -> FieldPath | None:
    path: list[str | int] = []
    at = 0
    while at < len(key):
        if path and key[at] == ".":
            at += 1
        whole = _PARAM.match(key, at) if path and path[-1] in _OF_PARAMS else None
        if whole is not None:
            path.append(whole[0])
            at = whole.end()
            continue
        match = _PART.match(key, at)
        if match is None or (not path and match[1] is None):
            return None
        path.append(int(match[2]) if match[2] is not None else match[1] or match[3])
        at = match.end()
    return tuple(path) or None


def _replaced(data: Any, rest: FieldPath, new: Any, above: FieldPath) -> Any:
    """Copy of `data` with the value at `rest` replaced; a LookupError says why there is no such place."""
    if not rest:
        return new
    part, rest = rest[0], rest[1:]
    if data is None and str(part).isdecimal():
        raise LookupError(f"{format_path(above)} has no elements yet (set the whole list)")
    if isinstance(data, list):
        index = int(part) if str(part).isdecimal() else -1
        if not 0 <= index < len(data):
            name = format_path(above)
            raise LookupError(f"{name} is a list of {len(data)}, so {show(part)} is none of its indexes")
        return [*data[:index], _replaced(data[index], rest, new, (*above, index)), *data[index + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict) or isinstance(part, int):
        raise LookupError(f"{format_path(above)} is {show(data)}, so it has no {format_path((part,))}")
    return {**data, part: _replaced(data.get(part), rest, new, (*above, part))}
