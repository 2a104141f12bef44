"""`avbatch runs`: the runs below a folder or URL, and how far each is.

A folder with a `run.json` is a run and is not looked into: a run has millions of files. Other folders are, down to a
depth; on an object store several are asked for at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.runs.counts import Counts, count_rows
from abstractvision_batch.runs.files import RECORD
from abstractvision_batch.runs.record import RunRecord, read_record
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.store import Store, open_store

DEFAULT_DEPTH = 5

State = Literal["complete", "failed rows", "incomplete", "missing", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState(Counts):
    """How far a run is, and which."""

    path: str
    state: State
    """`complete`: every row succeeded; `failed rows`: every request has a result; `missing`: it was not started."""
    name: str | None = None
    scheduled_at: datetime | None = None
    created_at: str | None = None
    problem: str | None = None
    """What is broken."""

    @property
    def done(self) -> bool:
        """Whether every request has a result."""
        return self.state in ("complete", "failed rows")


def list_runs(
    path: str | Path, storage_options: Mapping[str, Any] | None = None, *, depth: int = DEFAULT_DEPTH
) -> list[RunState]:
    """The runs at or below a folder or URL, by path.

    Args:
        path: A folder or URL; a run's own is the one run there.
        storage_options: fsspec options with secrets resolved.
        depth: How many folders deep below it.

    Raises:
        SpecError: it is a local path, and there is no such folder.
        StorageError: a folder cannot be listed.
    """
    root = open_store(str(path), storage_options)
    if "://" not in str(path) and not Path(path).expanduser().is_dir():
        raise SpecError(f"{path}: no such folder (name a folder or URL with runs below it)")
    folders, found = [""], []
    for level in range(depth + 1):
        holds_run = dict(map_in_flight(folders, lambda folder: root.exists(f"{folder}/{RECORD}".lstrip("/"))))
        found += [folder for folder, is_run in holds_run.items() if is_run]
        others = [folder for folder, is_run in holds_run.items() if not is_run]
        if level < depth:
            folders = [
                name for _, names in map_in_flight(others, lambda folder: _below(root, folder)) for name in names
            ]
    places = [root.url_of(folder) if folder else root.url for folder in sorted(found)]
    return [run for _, run in map_in_flight(places, lambda place: read_run_state(open_store(place, storage_options)))]


def read_run_state(store: Store) -> RunState:
    """How far the run in a store is; what cannot be read is `broken`."""
    try:
        record = read_record(store)
        return RunState(path=store.url, state="missing") if record is None else _describe(store, record)
    except StorageError as error:
        return RunState(path=store.url, state="broken", problem=str(error))
    except (KeyError, TypeError, ValueError) as error:
        return RunState(path=store.url, state="broken", problem=f"{store.url_of(RECORD)}: is damaged: {error!r}")


def _below(root: Store, folder: str) -> list[str]:
    return [f"{folder}/{name}".lstrip("/") for name in root.list_folders(folder)]


def _describe(store: Store, record: RunRecord) -> RunState:
    counts = count_rows(store, record.plan)
    done: State = "failed rows" if counts.failed else "complete"
    return RunState(
        path=store.url,
        state=done if counts.shards_done == counts.shards else "incomplete",
        name=record.data["name"],
        scheduled_at=record.scheduled_at,
        created_at=record.data["created_at"],
        **counts.values(),
    )
