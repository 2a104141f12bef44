"""Check one shard of a run: its rows against the plan, its files against its rows.

Holds one shard at a time, so a run of any size is audited in the memory of one shard and a few artifacts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.artifact_names import (
    artifact_folder,
    is_artifact,
    is_shard_folder,
    sha_of_container,
    shard_of_container,
)
from abstractvision_batch.runs.counts import COUNTED_COLUMNS
from abstractvision_batch.runs.files import ARTIFACTS
from abstractvision_batch.runs.manifest import mark_superseded, part_name, read_shard_rows
from abstractvision_batch.runs.row_files import FILE_COLUMNS, RowFile, row_files
from abstractvision_batch.storage.failures import is_lost
from abstractvision_batch.storage.names import StoredFile, is_temporary
from abstractvision_batch.storage.store import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `kind` says what can be done about it."""

    kind: str
    name: str
    """Name of the file in the store, or of the request."""
    message: str
    shard: int | None = None
    modified_at: datetime | None = None
    """Of an orphan."""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class Artifacts:
    """What lies in a run's `artifacts/`: containers, listed once, and shards' folders, listed when asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._files = store.scan(ARTIFACTS)
        self._folders = {f"{ARTIFACTS}/{name}" for name in store.list(ARTIFACTS) if is_shard_folder(name)}
        self._containers: dict[int, list[StoredFile]] = {}
        for file in self._files:
            if (shard := shard_of_container(file.name)) is not None:
                self._containers.setdefault(shard, []).append(file)

    def of_shard(self, shard: int) -> dict[str, StoredFile]:
        """Containers and files of a shard, under their names in the store."""
        found = {f"{ARTIFACTS}/{file.name}": file for file in self._containers.get(shard, ())}
        return found | self._in_folder(artifact_folder(shard))

    def of_no_shard(self, shards: int) -> Iterator[tuple[str, StoredFile]]:
        """What is ours by its name and belongs to none of a plan's shards, with its name in the store."""
        for file in self._files:
            shard = shard_of_container(file.name)
            if is_temporary(file.name) or (shard is not None and shard >= shards):
                yield f"{ARTIFACTS}/{file.name}", file
        for folder in sorted(folder for folder in self._folders if int(folder.rpartition("/")[2]) >= shards):
            yield from ((name, file) for name, file in self._in_folder(folder).items() if is_ours(file.name))

    def _in_folder(self, folder: str) -> dict[str, StoredFile]:
        found = self.store.scan(folder) if folder in self._folders else []
        return {f"{folder}/{file.name}": file for file in found}


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """What one shard's rows say, and what is wrong with them or their files."""

    findings: list[Finding]
    rows: pa.Table | None = None
    """Those of its columns that are counted; None where they cannot be read."""
    files: tuple[RowFile, ...] = ()
    environments: frozenset[str] = frozenset()
    """Ids of those that rows name."""

    def hashes(self) -> dict[str, list[str]]:
        """SHA-256 of each request's files, in their order."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            found.setdefault(file.request_id, []).append(file.sha256)
        return found


def audit_shard(
    artifacts: Artifacts,
    shard: int,
    attempts: Sequence[int],
    planned: Sequence[str] | None,
    *,
    each: Callable[..., Iterable[Any]] = map,
    fast: bool = False,
    superseded: Collection[str] = frozenset(),
) -> ShardAudit:
    """Check a shard that is done.

    Args:
        artifacts: The run's.
        shard: Number of the shard.
        attempts: Of its parts.
        planned: Its request ids in order; None where the plan cannot be read.
        each: `map`, or that of a pool: files are read through it.
        fast: Trust a file of the right size.
        superseded: Ids of requests whose place others took.
    """
    try:
        columns = list(dict.fromkeys([*FILE_COLUMNS, *COUNTED_COLUMNS, "environment_id"]))
        table = mark_superseded(read_shard_rows(artifacts.store, shard, attempts, columns), superseded)
    except StorageError as exc:
        if not is_lost(exc):  # a store that is down, or refuses, has lost nothing
            raise
        name = part_name(shard, attempts[-1])
        said = str(exc).removeprefix(f"{artifacts.store.url}/")
        return ShardAudit([Finding("damaged_part", name, f"cannot be read: {said}", shard)])
    rows = table.to_pylist()
    findings = [] if planned is None else list(_check_rows(shard, planned, rows))
    files: list[RowFile] = []
    for row in rows:
        try:
            files += row_files(row)
        except StorageError as exc:
            findings.append(Finding("damaged_row", row["request_id"], str(exc), shard))
    findings += _check_files(artifacts, shard, files, each=each, fast=fast)
    environments = frozenset(row["environment_id"] for row in rows if row["environment_id"] is not None)
    return ShardAudit(
        findings,
        rows=table.select(list(COUNTED_COLUMNS)),
        files=tuple(files),
        environments=environments,
    )


def is_ours(file_name: str) -> bool:
    """Whether a file in `artifacts/` has a name that we give; `.DS_Store` and a user's notes have not."""
    return is_artifact(file_name) or shard_of_container(file_name) is not None or is_temporary(file_name)


def orphan(name: str, message: str, modified_at: datetime | None, shard: int | None = None) -> Finding:
    """A file that belongs to nothing."""
    return Finding("orphan", name, message, shard, modified_at)


def _check_rows(shard: int, planned: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether the rows are the planned requests, each exactly once."""
    there = Counter(str(row["request_id"]) for row in rows)
    for request_id in planned:
        if request_id not in there:
            yield Finding("missing_row", request_id, f"planned in shard {shard}, and no row of it", shard)
    known = set(planned)
    for request_id, times in there.items():
        if request_id not in known:
            yield Finding("foreign_row", request_id, f"a row of shard {shard} that its plan does not have", shard)
        elif times > 1:
            yield Finding("duplicate_row", request_id, f"{times} rows of shard {shard}", shard)


def _check_files(
    artifacts: Artifacts, shard: int, files: Sequence[RowFile], *, each: Callable[..., Iterable[Any]], fast: bool
) -> Iterator[Finding]:
    """Whether every file of the shard's rows is there and whole, and whether there are others."""
    there = artifacts.of_shard(shard)
    named: dict[str, list[RowFile]] = {}
    for file in files:
        named.setdefault(file.name, []).append(file)
    whole: list[str] = []
    for name, own in named.items():
        found = there.get(name)
        expected = own[0].size_bytes if own[0].container_bytes is None else own[0].container_bytes
        if found is None:
            yield Finding("missing_file", name, f"is not there ({_of_requests(own)})", shard)
        elif found.size_bytes != expected:
            said = f"{found.size_bytes:,} bytes, {expected:,} in the manifest ({_of_requests(own)})"
            yield Finding("wrong_size", name, said, shard)
        else:
            whole.append(name)
    if not fast:
        damages = each(lambda name: find_damage(artifacts.store, name, named[name]), whole)
        for name, damaged in zip(whole, damages, strict=True):
            if damaged is not None:
                said = f"its content is not what was written: another sha256 ({_of_requests(damaged or named[name])})"
                yield Finding("wrong_hash", name, said, shard)
    for name, stored in there.items():
        if name not in named and is_ours(stored.name):
            yield orphan(name, "no row names it", stored.modified_at, shard)


def _of_requests(files: Sequence[RowFile]) -> str:
    ids = list(dict.fromkeys(file.request_id for file in files))
    return f"of request {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")


#: Bytes between members that are read at a time.
BLOCK_BYTES = 8 << 20


def find_damage(store: Store, name: str, files: Sequence[RowFile]) -> list[RowFile] | None:
    """Which of the files that lie in `name` are not what was written.

    Returns:
        None where all is well; empty where only what lies between the members of a container is damaged.

    Raises:
        StorageError: the store is down, or refuses; which says nothing of the file.
    """
    try:
        if files[0].offset_bytes is None:
            data = store.read(name)
            return [file for file in files if hashlib.sha256(data).hexdigest() != file.sha256] or None
        return _damage_of_container(store, name, files)
    except StorageError as exc:
        if not is_lost(exc):  # a store that is down, or refuses, has lost nothing
            raise
        return list(files)


def _damage_of_container(store: Store, name: str, files: Sequence[RowFile]) -> list[RowFile] | None:
    whole, damaged = hashlib.sha256(), []
    end = 0
    with store.open(name) as stream:
        for file in sorted(files, key=lambda file: file.offset_bytes or 0):
            start = file.offset_bytes or 0
            if start < end:  # members never overlap: these rows are not of this container
                return list(files)
            while end < start and (block := stream.read(min(BLOCK_BYTES, start - end))):
                whole.update(block)
                end += len(block)
            data = stream.read(file.size_bytes)
            whole.update(data)
            end += len(data)
            if hashlib.sha256(data).hexdigest() != file.sha256:
                damaged.append(file)
        while block := stream.read(BLOCK_BYTES):
            whole.update(block)
    return damaged if damaged or not whole.hexdigest().startswith(sha_of_container(name)) else None
