"""Variables of a spec said again by value: elsewhere the environment is another one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from abstractvision_batch.documents.positions import format_path
from abstractvision_batch.job.env import interpolate
from abstractvision_batch.job.load import read_values
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import leaves
from abstractvision_batch.text.redaction import find_key, gives_access

_NAME = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def restate_variables(spec: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """`--set` of every field that names a variable, with what it holds here, unless that is a secret."""
    changed = _changed_fields(spec, overrides)
    return [restate(field, after) for field, _, after in changed if not _is_secret(after)]


def secret_variables(spec: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """Variables in fields of a spec that hold a secret here, such as a signed URL: they must be set there too."""
    names = [_NAME.findall(str(before)) for _, before, after in _changed_fields(spec, overrides) if _is_secret(after)]
    return sorted({name for found in names for name in found})


def _changed_fields(spec: str | Path, overrides: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """Each field that names a variable: its name, what stands there, and what that is here."""
    data = read_values(spec, overrides).data
    replaced, _ = interpolate(data)
    for leaf, new in zip(leaves(JobSpec, data), leaves(JobSpec, replaced), strict=True):
        if leaf.value != new.value:
            yield format_path(leaf.path), leaf.value, new.value


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and (gives_access(value) or find_key(value) is not None)


def restate(field: str, value: object) -> str:
    """`--set` of a field; a `${` in its value is no reference."""
    return f"{field}={json.dumps(value, ensure_ascii=False).replace('${', '$${')}"
