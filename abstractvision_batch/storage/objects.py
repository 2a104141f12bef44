"""A run folder on an object store, through fsspec, one request per write.

``open(..., "wb")`` is never used: when the body of its ``with`` raises, every driver commits what was written so far.
Every call is tried again by `storage.retries` where its failure is passing, and fails with a StorageError of one line.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.failures import Failure, classify, storage_error
from abstractvision_batch.storage.names import PROBE_PREFIX, StoredFile, check_name, is_plain
from abstractvision_batch.storage.object_reader import open_object
from abstractvision_batch.storage.retries import Retries, put_if_absent

#: Where drivers say when an object was written: s3fs, adlfs, gcsfs, memory.
MODIFIED_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")
#: Bytes of a large object that are compared at a time.
COMPARED_BYTES = 8 << 20

T = TypeVar("T")


class ObjectStore:
    """Names under one prefix of an fsspec file system.

    Args:
        url: The folder, as given.
        filesystem: An fsspec file system.
        root: The folder, as the file system spells it.
        retries: How often and how long to try.
    """

    # fsspec's memory file system checks and writes in two steps; it lives in one process, so a lock makes them one.
    _memory_lock = threading.Lock()

    def __init__(self, url: str, filesystem: Any, root: str, *, retries: Retries | None = None) -> None:
        self._url = url
        self._fs = filesystem
        self._root = root
        self._retries = retries or Retries()
        self._create_lock = self._memory_lock if filesystem.protocol == "memory" else contextlib.nullcontext()
        # s3fs would ask for the size first, to read parts of a large object side by side: twice the requests.
        self._whole = {"max_concurrency": 1} if "s3" in tuple(filesystem.protocol) else {}

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: bytes | Path) -> None:
        self._call(name, lambda: self._write(self._path(name), data), writing=True)

    def put_if_absent(self, name: str, data: bytes | Path) -> bool:
        path = self._path(name)

        def create() -> None:
            with self._create_lock:
                try:
                    self._write(path, data, mode="create")
                except Exception as exc:
                    if classify(exc) is not Failure.UNSUPPORTED:
                        raise
                    self._write(path, data)

        def is_ours() -> bool:
            try:
                return self._holds(path, data)
            except FileNotFoundError:  # made by another and gone again
                return False

        with self._errors(name, writing=True):
            return put_if_absent(
                create,
                exists=lambda: self._exists(path),
                holds_our_bytes=is_ours,
                retries=self._retries,
                what=self.url_of(name),
            )

    def probe_conditional_put(self) -> bool | None:
        path = self._path(f"{PROBE_PREFIX}{uuid.uuid4().hex}")

        def probe() -> bool | None:
            self._fs.pipe_file(path, b"first")
            try:
                self._fs.pipe_file(path, b"second", mode="create")
            except Exception as exc:
                if (failure := classify(exc)) in (Failure.EXISTS, Failure.UNSUPPORTED):
                    return failure is Failure.EXISTS
                raise
            return False

        try:
            return self._call("", probe, writing=True)
        finally:
            # Writing without deleting is a fair set of rights: the probe, which listings hide, stays.
            with contextlib.suppress(StorageError):
                self._call("", lambda: self._fs.rm_file(path), writing=True)

    def check_writable(self) -> None:
        """List the folder, as resuming must: it shows a missing bucket and missing rights, and leaves no trace."""
        self.list("")

    def sync_folder(self, name: str) -> None:
        """Nothing to do: an object store has no folders."""

    def read(self, name: str) -> bytes:
        return self._call(name, lambda: bytes(self._fs.cat_file(self._path(name), **self._whole)))

    def read_range(self, name: str, offset_bytes: int, size_bytes: int) -> bytes:
        end = offset_bytes + size_bytes
        if not 0 <= offset_bytes <= end:
            raise StorageError(f"{self.url_of(name)}: {size_bytes} bytes from {offset_bytes} on are no part of a file")
        return self._call(name, lambda: bytes(self._fs.cat_file(self._path(name), start=offset_bytes, end=end)))

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        size_bytes = int(self._call(name, lambda: self._fs.info(path))["size"])
        return open_object(
            size_bytes,
            lambda start, end: self._call(name, lambda: bytes(self._fs.cat_file(path, start=start, end=end))),
        )

    def exists(self, name: str) -> bool:
        return self._call(name, lambda: self._exists(self._path(name)))

    def list(self, folder: str) -> list[str]:
        names = (_last_segment(entry) for entry in self._entries(folder))
        return sorted(name for name in names if not name.startswith("."))

    def scan(self, folder: str) -> builtins.list[StoredFile]:
        files = [_stored_file(entry) for entry in self._entries(folder) if entry["type"] == "file"]
        return sorted(files, key=lambda file: file.name)

    def list_folders(self, folder: str) -> builtins.list[str]:
        names = {_last_segment(entry) for entry in self._entries(folder) if entry["type"] == "directory"}
        return sorted(name for name in names if not name.startswith("."))

    def delete(self, name: str) -> None:
        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

        self._call(name, delete)

    def url_of(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _path(self, name: str) -> str:
        """The object's key; every request makes it here."""
        return f"{self._root}/{check_name(name)}"

    def _write(self, path: str, data: bytes | Path, **mode: str) -> None:
        if isinstance(data, Path):
            self._fs.put_file(str(data), path, **mode)
        else:
            self._fs.pipe_file(path, data, **mode)

    def _exists(self, path: str) -> bool:
        # Not `fs.exists`: for many file systems any failure means no.
        self._fs.invalidate_cache()
        try:
            self._fs.info(path)
        except Exception as exc:
            if classify(exc) is not Failure.MISSING:
                raise
            return False
        return True

    def _entries(self, folder: str) -> builtins.list[dict[str, Any]]:
        path = self._path(folder) if folder else self._root

        def entries() -> builtins.list[dict[str, Any]]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(path, detail=True)
            except Exception as exc:
                if classify(exc) is not Failure.MISSING:
                    raise
                return []
            below = (entry for entry in found if entry["name"].strip("/") != path.strip("/"))
            return [entry for entry in below if is_plain(_last_segment(entry))]

        return self._call(folder, entries)

    def _holds(self, path: str, data: bytes | Path) -> bool:
        if isinstance(data, bytes):
            return bytes(self._fs.cat_file(path)) == data
        size_bytes = data.stat().st_size
        if int(self._fs.info(path)["size"]) != size_bytes:
            return False
        with data.open("rb") as file:
            for start in range(0, size_bytes, COMPARED_BYTES):
                ours = file.read(COMPARED_BYTES)
                if bytes(self._fs.cat_file(path, start=start, end=start + len(ours))) != ours:
                    return False
        return True

    def _call(self, name: str, action: Callable[[], T], *, writing: bool = False) -> T:
        with self._errors(name, writing=writing):
            return self._retries.call(action, what=self.url_of(name))

    @contextlib.contextmanager
    def _errors(self, name: str, *, writing: bool) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            if classify(exc) is None:
                raise
            where = self.url_of(name) if name else self._url
            raise storage_error(where, exc, writing=writing) from exc


def _last_segment(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]


def _stored_file(entry: dict[str, Any]) -> StoredFile:
    times = (_as_time(entry.get(key)) for key in MODIFIED_KEYS)
    modified_at = next((time for time in times if time is not None), None)
    return StoredFile(_last_segment(entry), int(entry["size"] or 0), modified_at)


def _as_time(value: Any) -> datetime | None:
    """The time that a driver gives as a datetime, as seconds or as ISO 8601 text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None
