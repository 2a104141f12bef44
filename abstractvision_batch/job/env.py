"""Environment variables in a spec: `${NAME}` in paths, and secrets by name.

`${NAME}` is replaced only in fields with the mark `Interpolated`, so that a prompt or a template may hold any text;
`$${` stands for `${` there. A secret is written `{env: NAME}`, stays so in the spec and in every dump of it, and is
looked up only where it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.marks import Interpolated
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import find_parts, put_value

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def interpolate(
    data: dict[str, Any], environ: Mapping[str, str] = os.environ
) -> tuple[dict[str, Any], list[tuple[FieldPath, str]]]:
    """Copy of a spec's values with `${NAME}` replaced where declared, and what is wrong, as (path, message)."""
    problems: list[tuple[FieldPath, str]] = []
    return _map_texts(data, lambda text, path: _replace(text, environ, path, problems)), problems


def escape_references(data: dict[str, Any]) -> dict[str, Any]:
    """The values of a resolved spec, as `interpolate` is to read them back: what it replaced once stays as it is.

    Else a run of a stranger could have variables put into its paths.
    """
    return _map_texts(data, lambda text, _: text.replace("${", "$${"))


def _map_texts(data: dict[str, Any], change: Callable[[str, FieldPath], str]) -> dict[str, Any]:
    for part in find_parts(JobSpec, data, Interpolated):
        if isinstance(part.value, str):
            data = put_value(data, part.path, change(part.value, part.path))
    return data


def resolve_secret(secret: FromEnv, field: str) -> str:
    """Value of the variable; `field` is the dotted name that a message shows.

    Raises:
        SpecError: the variable is not set.
    """
    value = os.environ.get(secret.env)
    if not value:
        raise SpecError(f"{field}: environment variable {secret.env} is not set (export {secret.env}=…)")
    return value


def resolve_options(
    options: Mapping[str, str | int | bool | float | FromEnv],
    field: str = "storage_options",
    *,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Options of fsspec with their secrets looked up, and over them those `given`; never log or store the result.

    Raises:
        SpecError: a variable is not set; all of them are named.
    """
    resolved: dict[str, Any] = {}
    problems: list[str] = []
    given = given or {}
    for name, value in options.items():
        if name in given:
            continue
        try:
            resolved[name] = resolve_secret(value, f"{field}.{name}") if isinstance(value, FromEnv) else value
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return {**resolved, **given}


def _replace(text: str, environ: Mapping[str, str], path: FieldPath, problems: list[tuple[FieldPath, str]]) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if not match[0].endswith("}") or not _NAME.fullmatch(name):
            problems.append((path, f"{show(match[0])} is not of the form ${{NAME}} (write $${{ for a literal ${{)"))
        elif name not in environ:
            problems.append((path, f"environment variable {name} is not set (export {name}=…)"))
        else:
            return environ[name]
        return match[0]

    return _REFERENCE.sub(value_of, text)
