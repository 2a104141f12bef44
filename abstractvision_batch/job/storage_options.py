"""``--storage-option key=value``: options of a store where no spec says them.

    endpoint_url=https://s3.example.org    client_kwargs.region_name=eu-1    anon=true    secret=env:MY_SECRET

The value is YAML, as of ``--set``; dots lead into nested options. A secret is named, as in a spec, never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from abstractvision_batch.documents.positions import plain_value
from abstractvision_batch.documents.yaml_reader import read_value
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import resolve_secret
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.secrets import is_plain_secret

_FROM_ENV = "env:"


def parse_storage_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options for fsspec with their secrets looked up; never log or store the result.

    Raises:
        SpecError: some are not of the form, hold a secret, or name a variable that is not set; all of them are named.
    """
    options: dict[str, Any] = {}
    problems: list[str] = []
    for text in texts:
        key, equals, value = text.partition("=")
        where = f"--storage-option {key}"
        try:
            if not equals or not all(key.split(".")):
                raise SpecError(f"{where}: is not of the form key=value (as endpoint_url=http://127.0.0.1:9000)")
            _set(options, key.split("."), _value(key, value, where), where)
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return options


def _value(key: str, text: str, where: str) -> Any:
    value = plain_value(read_value(text, where))
    if isinstance(value, str) and value.startswith(_FROM_ENV):
        value = {"env": value.removeprefix(_FROM_ENV)}
    if isinstance(value, dict) and set(value) == {"env"}:
        try:
            return resolve_secret(FromEnv.model_validate(value), where)
        except ValidationError as exc:
            raise SpecError(f"{where}: {value['env']!r} is no name of an environment variable") from exc
    if is_plain_secret(key.rpartition(".")[2], value):
        raise SpecError(f"{where}: a secret stands on the command line (write {key}=env:NAME)")
    return value


def _set(options: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    for name in path[:-1]:
        options = options.setdefault(name, {})
        if not isinstance(options, dict):
            raise SpecError(f"{where}: {name} is an option of its own already")
    options[path[-1]] = value
