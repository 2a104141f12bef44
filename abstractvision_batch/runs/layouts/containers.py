"""Layouts with one container per shard and attempt: ``artifacts/00003-<sha>.tar``, named by a hash of its content.

While a worker generates, its encoded files wait on the local disk. At the commit they become members of the container,
in the order of the plan; then the container is put, and after it the manifest part, which says of each row where in
the container its bytes lie. A row that failed has no member, and an attempt without a success leaves no container.

A shard that is run in pieces by several workers (`shard_queue`) has its files in the store, under the names that the
layout `files` has; whoever commits gathers them from there and removes them afterwards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from abstractvision_batch.errors import StorageError
from abstractvision_batch.media.probe import FILE_EXTENSIONS
from abstractvision_batch.runs.artifact_names import container_name, member_name
from abstractvision_batch.runs.columns import RowResult
from abstractvision_batch.runs.files import ARTIFACTS
from abstractvision_batch.runs.layouts.spool import Pieces, Spool
from abstractvision_batch.runs.row_files import RowFile, row_files
from abstractvision_batch.storage.file_hashes import hash_stream
from abstractvision_batch.storage.scratch import scratch_folder, temporary_disk
from abstractvision_batch.storage.store import Store

logger = logging.getLogger(__name__)

#: Results that a container repeats: what the files are. Nothing that may differ between two runs of one plan.
MEDIA_COLUMNS = (
    "content_type",
    "size_bytes",
    "sha256",
    "pixel_sha256",
    "media_width",
    "media_height",
    "media_frames",
    "duration_s",
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file that goes into a container."""

    name: str
    data: bytes
    sha256: str


class Container(Protocol):
    """A container that is being written. Equal rows and members make equal bytes."""

    def add(self, row: Mapping[str, Any], members: Sequence[Member]) -> None:
        """Append a row's columns, of the plan and `MEDIA_COLUMNS`, and its files."""

    def finish(self) -> list[int]:
        """Complete the file; where each member's bytes begin, in the order in which they were added."""

    def close(self) -> None:
        """Let go of the file, complete or not."""


#: Makes a container at a path for rows of a plan.
OpenContainer = Callable[[Path, pa.Schema], Container]


class ContainerLayout:
    """One container per shard and attempt.

    Args:
        extension: Of the containers, with its dot.
        open_container: Makes one.
    """

    def __init__(self, extension: str, open_container: OpenContainer) -> None:
        self._extension = extension
        self._open_container = open_container

    def keep(self, store: Store) -> AbstractContextManager[Pieces]:
        return Spool()

    def place(
        self, store: Store, pieces: Pieces, rows: pa.Table, results: Mapping[int, RowResult], *, shard: int
    ) -> Mapping[int, RowResult]:
        files = {index: _files_of(result) for index, result in results.items() if result.succeeded}
        if not files:
            return results
        with scratch_folder() as folder:
            path = folder / f"container{self._extension}"
            members = self._write(path, pieces, rows, results, files)
            with temporary_disk(), path.open("rb") as stream:
                sha256 = hash_stream(stream)
                size_bytes = path.stat().st_size
            name = container_name(shard, sha256, self._extension)
            store.put(name, path)
        store.sync_folder(ARTIFACTS)
        return {
            index: _pointing_into(result, name, size_bytes, members[index]) if index in members else result
            for index, result in results.items()
        }

    def clean_up(self, store: Store, results: Mapping[int, RowResult]) -> None:
        names = [file.name for result in results.values() for file in _files_of(result)]
        try:
            for name in names:
                store.delete(name)
        except StorageError as error:  # writing without deleting is a fair set of rights
            logger.warning("%s (these files stay, and are in their container too)", error)

    def _write(
        self,
        path: Path,
        pieces: Pieces,
        rows: pa.Table,
        results: Mapping[int, RowResult],
        files: Mapping[int, Sequence[RowFile]],
    ) -> dict[int, list[tuple[str, int]]]:
        """Name and offset of the members of each row that has any."""
        names: list[tuple[int, str]] = []
        with temporary_disk(), closing(self._open_container(path, rows.schema)) as container:
            for row in rows.to_pylist():
                index = row["index"]
                if index not in files:
                    continue
                result = results[index]
                members = list(_members(row, result, files[index], pieces))
                container.add(row | {name: getattr(result, name) for name in MEDIA_COLUMNS}, members)
                names += [(index, member.name) for member in members]
            offsets = container.finish()
        members_of: dict[int, list[tuple[str, int]]] = {}
        for (index, name), offset in zip(names, offsets, strict=True):
            members_of.setdefault(index, []).append((name, offset))
        return members_of


def _files_of(result: RowResult) -> list[RowFile]:
    return row_files({"request_id": "", **asdict(result)})


def _members(row: Mapping[str, Any], result: RowResult, files: Sequence[RowFile], pieces: Pieces) -> Iterator[Member]:
    extension = FILE_EXTENSIONS[str(result.content_type)]
    for view, file in enumerate(files):
        data = pieces.read(file.name)
        if len(data) != file.size_bytes:
            raise StorageError(f"{file.name}: {len(data):,} bytes, {file.size_bytes:,} were written (run again)")
        yield Member(member_name(row["request_id"], view, extension), data, file.sha256)


def _pointing_into(result: RowResult, name: str, container_bytes: int, members: Sequence[tuple[str, int]]) -> RowResult:
    """The result with its file, or those of its views, in the container."""
    metadata = json.loads(result.metadata_json or "{}")
    if "views" in metadata:
        places = [{"file_name": name, "member": member, "offset_bytes": offset} for member, offset in members]
        metadata["views"] = [view | place for view, place in zip(metadata["views"], places, strict=True)]
    member, offset = members[0]
    return replace(
        result,
        file_name=name,
        member=member,
        offset_bytes=offset,
        container_bytes=container_bytes,
        metadata_json=json.dumps(metadata, sort_keys=True, ensure_ascii=False),
    )
