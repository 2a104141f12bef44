"""JSON files, read as what a stranger may have written: bounded in size and depth, one line on what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.regular import open_regular
from abstractvision_batch.storage.store import Store

MAX_BYTES = 64 << 20
MAX_DEPTH = 64


def read_json(store: Store, name: str, *, hint: str) -> Any:
    """Return what a JSON file says.

    Args:
        store: Where the file is.
        name: Of the file.
        hint: What would help where it is not JSON, for the message.

    Raises:
        StorageError: it cannot be read, is not JSON, or is too large or too deep to be a file of ours.
    """
    where = store.url_of(name)
    with store.open(name) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StorageError(f"{where}: larger than {MAX_BYTES >> 20} MiB, which no file of ours is ({hint})")
    try:
        found = parse_json(data)
    except ValueError as exc:
        raise StorageError(f"{where}: not JSON ({exc}) ({hint})") from exc
    return found


def read_local_json(path: Path) -> Any:
    """Return what a JSON file says that is no part of a run.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or too large or too deep to be a file of ours.
    """
    with open_regular(path) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    return parse_json(data)


def parse_json(data: bytes | str) -> Any:
    """Return what JSON says; infinities and NaN are none.

    Raises:
        ValueError: it is not JSON, or nested too deep for anything of ours.
    """
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _items(value)]
        if not level:
            return found
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _items(value: Any) -> list[Any]:
    """The values inside that may hold others."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in inner if isinstance(item, dict | list)]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
