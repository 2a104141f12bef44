"""`avbatch runs`: the runs below a folder or URL, and how far each is.

A folder with a `run.json` is a run and is not looked into: a run has millions of files. Other folders are, down to a
depth; on an object store several are asked for at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.runs.manifest import count_rows, list_parts, missing_shards
from abstractvision_batch.runs.record import RECORD, RunRecord, read_record
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.store import Store, open_store

DEFAULT_DEPTH = 5

State = Literal["complete", "failed rows", "incomplete", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is."""

    path: str
    state: State
    """`complete`: every row succeeded; `failed rows`: every request has a result; `missing`: it was not started."""
    name: str | None = None
    scheduled_at: datetime | None = None
    created_at: str | None = None
    shards: int = 0
    shards_done: int = 0
    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    superseded: int = 0
    """Failed rows whose place requests of an extension took."""
    not_run: int = 0
    """Rows that something kept from being run, of shards that left a part."""
    attempts: int = 0
    """Tries of all rows together."""
    cost_usd: float | None = None
    """Of all tries; None where nothing says what a request costs."""
    problem: str | None = None
    """What is broken."""

    @property
    def done(self) -> bool:
        """Whether every request has a result."""
        return self.state in ("complete", "failed rows")

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        scheduled_at = None if self.scheduled_at is None else self.scheduled_at.isoformat()
        return {**asdict(self), "scheduled_at": scheduled_at}


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
        return RunState(store.url, "missing") if record is None else _describe(store, record)
    except StorageError as error:
        return RunState(store.url, "broken", problem=str(error))
    except (KeyError, TypeError, ValueError) as error:
        return RunState(store.url, "broken", problem=f"{store.url_of(RECORD)}: is damaged: {error!r}")


def _below(root: Store, folder: str) -> list[str]:
    return [f"{folder}/{name}".lstrip("/") for name in root.list_folders(folder)]


def _describe(store: Store, record: RunRecord) -> RunState:
    parts = list_parts(store)
    missing = missing_shards(record.plan, parts)
    counts = count_rows(store, parts, record.plan)
    done: State = "failed rows" if counts.failed else "complete"
    return RunState(
        path=store.url,
        state="incomplete" if missing or counts.unfinished else done,
        name=record.data["name"],
        scheduled_at=record.scheduled_at,
        created_at=record.data["created_at"],
        shards=record.plan.shards,
        shards_done=record.plan.shards - len(missing) - len(counts.unfinished),
        requests=record.plan.requests,
        succeeded=counts.succeeded,
        failed=counts.failed,
        superseded=counts.superseded,
        not_run=counts.not_run,
        attempts=counts.attempts,
        cost_usd=counts.cost_usd,
    )
