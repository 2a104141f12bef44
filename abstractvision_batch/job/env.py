"""Environment variables in a spec: `${NAME}` in paths, and secrets by name.

`${NAME}` is replaced only in fields with the mark `Interpolated`, so that a prompt or a template may hold any text;
`$${` stands for `${` there. A secret is written `{env: NAME}`, stays so in the spec and in every dump of it, and is
looked up only where it is used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, format_path, show
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.marks import Interpolated
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.variants import VARIANTS, says, split_variants
from abstractvision_batch.job.walk import find_parts, leaves, put_value
from abstractvision_batch.text.redaction import find_key, gives_access

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED = re.compile(rf"(?<!\$)\$\{{({_NAME.pattern})\}}")


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


def restate_variables(data: dict[str, Any]) -> list[str]:
    """Return a `--set` for every field of a spec that names a variable, with its value here, unless that is a secret.

    Elsewhere the environment is another one.
    """
    return [restate(field, after) for field, _, after in _changed_fields(data) if not _is_secret(after)]


def secret_variables(data: dict[str, Any]) -> list[str]:
    """Return the variables of a spec that hold a secret here, e.g. a signed URL: they must be set elsewhere too."""
    names = [_NAMED.findall(str(before)) for _, before, after in _changed_fields(data) if _is_secret(after)]
    return sorted({name for found in names for name in found})


def _changed_fields(data: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each field that names a variable: its name, what stands there, and what that is here."""
    variants, _ = split_variants(data)
    job = {key: value for key, value in data.items() if key != VARIANTS}
    for name, values in [(None, job), *((name, values) for name, values in variants.items() if name is not None)]:
        own: FieldPath = () if name is None else (VARIANTS, name)
        replaced, _ = interpolate(values)
        for leaf, new in zip(leaves(JobSpec, values), leaves(JobSpec, replaced), strict=True):
            if leaf.value != new.value and (name is None or says(data[VARIANTS][name], leaf.path)):
                yield format_path((*own, *leaf.path)), leaf.value, new.value


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and (gives_access(value) or find_key(value) is not None)


def restate(field: str, value: object) -> str:
    """`--set` of a field; a `${` in its value is no reference."""
    return f"{field}={json.dumps(value, ensure_ascii=False).replace('${', '$${')}"
