"""The server of a run: what kind it is, which its first worker finds out and every other keeps to.

`server.json`, put-if-absent, has the dialect that requests are written in and what the server said of itself. Not
covered: weights on this machine (`runs.weights`), what a worker runs on (`environment_files`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.documents.positions import FieldPath, format_path
from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.model import JobSpec, Params
from abstractvision_batch.job.param_names import extra_key
from abstractvision_batch.job.points import find_axes
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.runs.files import SERVER
from abstractvision_batch.storage.json_file import read_json
from abstractvision_batch.storage.store import Store

logger = logging.getLogger(__name__)


def read_server(store: Store, folder: str = "") -> dict[str, Any] | None:
    """What a run, or a variant in its folder, settled about its server; None where nobody asked yet, or it has none.

    Raises:
        StorageError: the record cannot be read.
    """
    name = folder + SERVER
    if not store.exists(name):
        return None
    found = read_json(store, name, hint="delete it, if no shard is done")
    if not isinstance(found, dict):
        raise StorageError(f"{store.url_of(name)}: damaged: no object (delete it, if no shard is done)")
    return found


def agree_on_server(store: Store, backend: VisionBackend, *, spec: JobSpec, card: ModelCard, folder: str = "") -> None:
    """Have the run's server be what the backend finds, unless that is known: then require the same.

    Raises:
        DependencyError: the server is missing, or another than the run's.
        SpecError: the job asks for what this kind of server ignores.
        StorageError: the record cannot be read or written.
    """
    known = read_server(store, folder)
    unasked = _unasked_params(spec, card)
    found = backend.settle(known, unasked=unasked)
    if found is None:
        return
    if known is None:
        require_read(spec, found)
        data = json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
        if not store.put_if_absent(folder + SERVER, data):
            backend.settle(read_server(store, folder), unasked=unasked)
            return
    said, guessed = backend.describe_settlement()
    logger.log(logging.WARNING if guessed else logging.INFO, "%s", said)


def require_read(
    spec: JobSpec,
    settled: dict[str, Any],
    *,
    at: Callable[[FieldPath], str] = lambda path: f"the spec: {format_path(path)}",
) -> None:
    """Refuse a job that asks for what its server ignores, once it is known what that is.

    Raises:
        SpecError: with a line for each such field.
    """
    problems = spec.backend.unread_by(settled, spec)
    lines = tuple(f"{at(path)}: {said}" for path, said in problems)
    if lines:
        raise SpecError("\n".join(lines), problems=lines)


def _unasked_params(spec: JobSpec, card: ModelCard) -> dict[str, Any]:
    """Values that requests have without anybody having asked for them; None where it may be any (a derived seed)."""
    asked = {*map(extra_key, find_axes(spec)), *spec.params.extra}
    asked |= {name for name in Params.model_fields if spec.params.asks_for(name)}
    defaults = {**default_params(card, spec.task), "seed": None} if spec.task in card.tasks else {"seed": None}
    return {name: value for name, value in defaults.items() if name not in asked}
