"""The environments of a run's workers: one file each under `environments/`, named by its content.

A worker writes its own once it is loaded, before it generates, and its rows name it. Equal workers write the same file,
as does a worker that comes again, so of any number of writers it does not matter who is first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.files import ENVIRONMENTS
from abstractvision_batch.storage.json_file import read_json
from abstractvision_batch.storage.store import Store

_ID_DIGITS = 12
_NAME = re.compile(rf"[0-9a-f]{{{_ID_DIGITS}}}\.json")


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """What a worker's rows say of where they were made."""

    id: str
    """Hash of the whole description: the name of its file."""
    device: str | None
    device_name: str | None
    """What the device is: the model of the GPU, or of the processor."""


def put_environment(store: Store, description: Mapping[str, Any]) -> WorkerEnvironment:
    """Write a worker's environment, if no worker wrote the same.

    Raises:
        StorageError: writing failed.
    """
    data = json.dumps(description, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    environment_id = hashlib.sha256(data).hexdigest()[:_ID_DIGITS]
    store.put_if_absent(environment_name(environment_id), data)
    backend = description["backend"]
    device, device_name = (backend.get(name) for name in ("device", "device_name"))
    return WorkerEnvironment(
        environment_id, None if device is None else str(device), None if device_name is None else str(device_name)
    )


def environment_name(environment_id: str) -> str:
    """Name of the file of an environment, in the run's store."""
    return f"{ENVIRONMENTS}/{environment_id}.json"


def read_environments(store: Store) -> dict[str, dict[str, Any]]:
    """Every environment that a worker of the run had, by id.

    Raises:
        StorageError: one cannot be read.
    """
    names = (name for name in store.list(ENVIRONMENTS) if _NAME.fullmatch(name))
    return {name.removesuffix(".json"): _read(store, f"{ENVIRONMENTS}/{name}") for name in names}


def _read(store: Store, name: str) -> dict[str, Any]:
    found = read_json(store, name, hint="the file is damaged: what its rows were made on is lost")
    if not isinstance(found, dict) or not isinstance(found.get("backend"), dict):
        raise StorageError(f"{store.url_of(name)}: damaged: not what a worker says of itself")
    return found
