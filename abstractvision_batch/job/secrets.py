"""Finds secrets that stand in a spec: keys under any name, options that are called secrets, URLs that give access.

A secret is named, ``{env: NAME}``, never written: a spec is copied into `run.json`, the README, emitted files. Only the
place of prompts and of their input images may be a URL that gives access; it is used whole and recorded without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.text.redaction import bare_url, find_key, gives_access, names_secret

_SECRET_OPTION = re.compile(r"secret|password|passphrase|credential|connection_string|account_key|token|api_key")
_SECRET_HEADER = re.compile(r"authorization|api-?key|token|secret|cookie")
#: What gcsfs takes for a token that is none; a path of a file ends in `.json`.
_TOKEN_METHODS = frozenset({"anon", "browser", "cache", "cloud", "google_default"})
#: Fields whose names are the user's, and whether a value there may be `{env: NAME}`.
_FREE_NAMES: dict[FieldPath, bool] = {
    ("prompts", "storage_options"): True,
    ("output", "storage_options"): True,
    ("backend", "headers"): True,
    ("execution", "runtime_env", "env_vars"): True,
    ("execution", "runtime_env"): False,
    ("params", "extra"): False,
}
_ARGUMENT = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.+))?", re.DOTALL)
_NAMED = "a secret stands in the spec (write {env: NAME})"
_OUT = "a secret stands in the spec, where none can be named (take it out)"


def find_plain_secrets(spec: JobSpec) -> Iterator[tuple[FieldPath, str]]:
    """Yield the path of each secret of a spec, with what is wrong; never the secret."""
    for path, value in _texts(spec.model_dump(mode="python"), ()):
        may_be_named = any(named for parent, named in _FREE_NAMES.items() if path[: len(parent)] == parent)
        hint = "write {env: NAME}" if may_be_named else "take it out: a spec names secrets, as {env: NAME}"
        in_prompts = path[:2] == ("prompts", "source")
        if not in_prompts and gives_access(value):
            yield path, f"a URL with a password or a signature in it ({hint})"
        elif (kind := find_key(bare_url(value) if in_prompts else value)) is not None:
            what = kind if kind.startswith("a ") else f"a key of {kind}"
            yield path, f"looks like {what} ({hint})"
        elif _is_named_secret(path, value):
            yield path, _NAMED if may_be_named else _OUT
    for index, (before, text) in enumerate(_arguments(spec)):
        match = _ARGUMENT.fullmatch(text)
        follows = (name := _ARGUMENT.fullmatch(before)) is not None and name[2] is None and names_secret(name[1])
        if (match is not None and match[2] is not None and names_secret(match[1])) or (follows and match is None):
            yield ("backend", "extra_args", index), _OUT


def is_plain_secret(name: str, value: object) -> bool:
    """Tell whether an option of a store holds a secret itself, not the name of a variable that does."""
    if not isinstance(value, str) or value in _TOKEN_METHODS:
        return False
    if find_key(value) is not None or gives_access(value):
        return True
    lower = name.lower()
    named = _SECRET_OPTION.search(lower) is not None or names_secret(name) or lower == "key"
    return named and not value.endswith(".json")


def _is_named_secret(path: FieldPath, value: str) -> bool:
    if not value:
        return False
    name = str(next((part for part in reversed(path) if isinstance(part, str)), ""))
    match path[:2]:
        case (_, "storage_options"):
            return is_plain_secret(name, value)
        case ("backend", "headers"):
            return _SECRET_HEADER.search(name.lower()) is not None or names_secret(name)
        case ("execution", "runtime_env") | ("params", "extra"):
            return len(path) > 2 and names_secret(name)
    return False


def _arguments(spec: JobSpec) -> Iterator[tuple[str, str]]:
    before = ""
    for text in getattr(spec.backend, "extra_args", ()):
        yield before, text
        before = text


def _texts(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    """Every text of a spec with its path, but for names of variables."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        if set(value) != {"env"}:
            for name, item in value.items():
                yield from _texts(item, (*path, str(name)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
