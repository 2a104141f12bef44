"""The weights of a run: what its first worker loaded, and what everyone else must load, or pixels would mix.

The first worker that has them in memory writes `weights.json`, put-if-absent, so of workers that race one says which
they are, and the others compare, before they generate and once more before they commit. `run.json` cannot say it: it is
written before anything is loaded, when files may still be missing or broken. Until a shard is done the weights may
change, because nothing was made of them; then never.
"""

from __future__ import annotations

import json

from abstractvision_batch.errors import DependencyError, StorageError
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.files import WEIGHTS
from abstractvision_batch.runs.manifest import list_parts
from abstractvision_batch.storage.json_file import read_json
from abstractvision_batch.storage.store import Store

#: Files that a message names.
_SHOWN_FILES = 3
_SHOWN_DIGITS = 12


def read_weights(store: Store, folder: str = "") -> Weights | None:
    """The weights of a run, or of a variant in its folder; None where nobody loaded any yet, or there are none.

    Raises:
        StorageError: the record cannot be read.
    """
    name = folder + WEIGHTS
    if not store.exists(name):
        return None
    try:
        return Weights.from_json(read_json(store, name, hint="delete it, if no shard is done"))
    except ValueError as exc:
        raise StorageError(f"{store.url_of(name)}: damaged: {exc} (delete it, if no shard is done)") from exc


def agree_on_weights(store: Store, found: Weights, *, who: str, folder: str = "") -> None:
    """Have the run's weights be `found`, unless they are known: then require the same.

    Raises:
        DependencyError: the run has other weights; nothing may be generated with these.
        StorageError: the record cannot be read or written.
    """
    recorded = read_weights(store, folder)
    if recorded is None:
        data = json.dumps(found.to_json(), indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
        if store.put_if_absent(folder + WEIGHTS, data):
            return
        recorded = read_weights(store, folder)
    if recorded is not None and (difference := _explain_difference(recorded, found)):
        raise DependencyError(f"{who}: {difference} (bring the run's own files there, or start a new run)")


def find_conflict(store: Store, found: Weights, folder: str = "") -> str | None:
    """Both digests and the files that are not the run's; None where all are, or nothing was made of the run's yet."""
    recorded = read_weights(store, folder)
    difference = None if recorded is None else _explain_difference(recorded, found)
    return difference if difference and list_parts(store) else None


def forget_unused_weights(store: Store, found: Weights, folder: str = "") -> None:
    """Let the next worker say again which weights the run has, if they are not `found` and nothing was made of them."""
    recorded = read_weights(store, folder)
    if recorded is not None and recorded.differing_files(found) and not list_parts(store):
        store.delete(folder + WEIGHTS)


def _explain_difference(recorded: Weights, found: Weights) -> str | None:
    files = recorded.differing_files(found)
    if not files:
        return None
    more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
    there, here = recorded.digest[:_SHOWN_DIGITS], found.digest[:_SHOWN_DIGITS]
    return f"the weights: {there} there, {here} here: {', '.join(files[:_SHOWN_FILES])}{more}"
