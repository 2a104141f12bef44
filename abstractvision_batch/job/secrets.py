"""Finds secrets that stand in a spec: keys under any name, options that are called secrets, URLs that give access.

A secret is named, ``{env: NAME}``, never written: a spec is copied into `run.json`, the README, emitted files. Only the
place of prompts and of their input images may be a URL that gives access; it is used whole and recorded without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.marks import Secret
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import leaves
from abstractvision_batch.text.redaction import bare_url, find_key, gives_access, names_secret

_SECRET_OPTION = re.compile(r"secret|password|passphrase|credential|connection_string|account_key|token|api_key")
_SECRET_HEADER = re.compile(r"authorization|api-?key|token|secret|cookie")
#: What gcsfs takes for a token that is none; a path of a file ends in `.json`.
_TOKEN_METHODS = frozenset({"anon", "browser", "cache", "cloud", "google_default"})
_ARGUMENT = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.+))?", re.DOTALL)
_NAMED = "a secret stands in the spec (write {env: NAME})"
_OUT = "a secret stands in the spec, where none can be named (take it out)"


def find_plain_secrets(spec: JobSpec) -> Iterator[tuple[FieldPath, str]]:
    """Yield the path of each secret of a spec, with what is wrong; never the secret."""
    for leaf in leaves(JobSpec, spec):
        before = ""
        for part in leaf.parts():
            value, mark = part.value, part.mark(Secret)
            if not isinstance(value, str):
                continue
            may_be_named = leaf.takes_secret
            hint = "write {env: NAME}" if may_be_named else "take it out: a spec names secrets, as {env: NAME}"
            in_prompts = leaf.path == ("prompts", "source")
            if not in_prompts and gives_access(value):
                yield part.path, f"a URL with a password or a signature in it ({hint})"
            elif (kind := find_key(bare_url(value) if in_prompts else value)) is not None:
                what = kind if kind.startswith("a ") else f"a key of {kind}"
                yield part.path, f"looks like {what} ({hint})"
            elif value and mark is not None and _is_named_secret(mark, part.path, value, before):
                yield part.path, _NAMED if may_be_named else _OUT
            before = value


def is_plain_secret(name: str, value: object) -> bool:
    """Tell whether an option of a store holds a secret itself, not the name of a variable that does."""
    if not isinstance(value, str) or value in _TOKEN_METHODS:
        return False
    if find_key(value) is not None or gives_access(value):
        return True
    lower = name.lower()
    named = _SECRET_OPTION.search(lower) is not None or names_secret(name) or lower == "key"
    return named and not value.endswith(".json")


def _is_named_secret(mark: Secret, path: FieldPath, value: str, before: str) -> bool:
    name = str(next((part for part in reversed(path) if isinstance(part, str)), ""))
    match mark.named_by:
        case "option":
            return is_plain_secret(name, value)
        case "header":
            return _SECRET_HEADER.search(name.lower()) is not None or names_secret(name)
        case "argument":
            match, follows = _ARGUMENT.fullmatch(value), _ARGUMENT.fullmatch(before)
            if match is not None:
                return match[2] is not None and names_secret(match[1])
            return follows is not None and follows[2] is None and names_secret(follows[1])
    return names_secret(name)
