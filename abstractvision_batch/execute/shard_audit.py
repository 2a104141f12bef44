"""Check one shard of a run: its rows against the plan, its files against its rows.

Holds one shard at a time, so a run of any size is audited in the memory of one shard and a few artifacts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from abstractvision_batch.errors import StorageError
from abstractvision_batch.execute.artifact_writer import artifact_folder
from abstractvision_batch.execute.manifest import part_name, read_shard_rows
from abstractvision_batch.storage.store import Store

#: What of a row says which files it has.
FILE_COLUMNS = ("index", "request_id", "status", "file_name", "size_bytes", "sha256", "metadata_json")


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


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file that a row names."""

    request_id: str
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardAudit:
    """What one shard's rows say, and what is wrong with them or their files."""

    findings: list[Finding]
    succeeded: int = 0
    failed: int = 0
    files: tuple[RowFile, ...] = ()

    def hashes(self) -> dict[str, list[str]]:
        """SHA-256 of each request's files, in their order."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            found.setdefault(file.request_id, []).append(file.sha256)
        return found


def audit_shard(
    store: Store,
    shard: int,
    attempts: Sequence[int],
    planned: Sequence[str] | None,
    *,
    each: Callable[..., Iterable[Any]] = map,
    fast: bool = False,
) -> ShardAudit:
    """Check a shard that is done.

    Args:
        store: The run's.
        shard: Number of the shard.
        attempts: Of its parts.
        planned: Its request ids in order; None where the plan cannot be read.
        each: `map`, or that of a pool: files are read through it.
        fast: Trust a file of the right size.
    """
    try:
        rows = read_shard_rows(store, shard, attempts, FILE_COLUMNS).to_pylist()
    except (StorageError, pa.ArrowException, KeyError) as exc:
        name = part_name(shard, attempts[-1])
        return ShardAudit([Finding("damaged_part", name, f"cannot be read: {' '.join(str(exc).split())}", shard)])
    findings = [] if planned is None else list(_check_rows(shard, planned, rows))
    files: list[RowFile] = []
    for row in rows:
        try:
            files += row_files(row)
        except StorageError as exc:
            findings.append(Finding("damaged_row", row["request_id"], str(exc), shard))
    findings += _check_files(store, shard, files, each=each, fast=fast)
    succeeded = sum(row["status"] == "ok" for row in rows)
    return ShardAudit(findings, succeeded, len(rows) - succeeded, tuple(files))


def row_files(row: Mapping[str, Any]) -> list[RowFile]:
    """The files of a row: one, or one per view; none where it failed.

    Raises:
        StorageError: the row does not say which.
    """
    if row["status"] != "ok":
        return []
    try:
        entries = json.loads(row["metadata_json"] or "{}").get("views") or [row]
        return [
            RowFile(row["request_id"], str(v["file_name"]), int(v["size_bytes"]), str(v["sha256"])) for v in entries
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise StorageError("succeeded, but does not say which file it has") from exc


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
    store: Store, shard: int, files: Sequence[RowFile], *, each: Callable[..., Iterable[Any]], fast: bool
) -> Iterator[Finding]:
    """Whether every file of the shard's rows is there and whole, and whether there are others."""
    folder = artifact_folder(shard)
    there = {f"{folder}/{file.name}": file for file in store.scan(folder)}
    whole: list[RowFile] = []
    for file in files:
        found = there.get(file.name)
        if found is None:
            yield Finding("missing_file", file.name, f"is not there (of request {file.request_id})", shard)
        elif found.size_bytes != file.size_bytes:
            said = f"{found.size_bytes:,} bytes, {file.size_bytes:,} in the manifest (of request {file.request_id})"
            yield Finding("wrong_size", file.name, said, shard)
        else:
            whole.append(file)
    if not fast:
        for file, sha256 in zip(whole, each(lambda file: _hash(store, file.name), whole), strict=True):
            if sha256 != file.sha256:
                said = f"its content is not what was written: another sha256 (of request {file.request_id})"
                yield Finding("wrong_hash", file.name, said, shard)
    named = {file.name for file in files}
    for name, stored in there.items():
        if name not in named:
            yield orphan(name, "no row names it", stored.modified_at, shard)


def _hash(store: Store, name: str) -> str | None:
    """None where it vanished or cannot be read."""
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except StorageError:
        return None
