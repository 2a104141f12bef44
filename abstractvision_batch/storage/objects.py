"""A run folder on an object store, through fsspec, one request per write.

``open(..., "wb")`` is never used: when the body of its ``with`` raises, every driver commits what was written so far.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.stored_file import StoredFile, as_time

#: What S3-compatible servers answer to a put whose name exists.
LOST_CODES = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
#: Where drivers say when an object was written: s3fs, adlfs, gcsfs, memory.
MODIFIED_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created")


class ObjectStore:
    """Names under one prefix of an fsspec file system."""

    # fsspec's memory file system checks and writes in two steps; it lives in one process, so a lock makes them one.
    _memory_lock = threading.Lock()

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self._url = url
        self._fs = filesystem
        self._root = root
        self._create_lock = self._memory_lock if filesystem.protocol == "memory" else contextlib.nullcontext()

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: bytes) -> None:
        with self._errors(name):
            self._fs.pipe_file(self._path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self._errors(name), self._create_lock:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as exc:
                if _lost(exc):
                    return False
                raise
        return True

    def put_file(self, name: str, path: Path) -> None:
        with self._errors(name):
            self._fs.put_file(str(path), self._path(name))

    def put_file_if_absent(self, name: str, path: Path) -> bool:
        with self._errors(name), self._create_lock:
            try:
                self._fs.put_file(str(path), self._path(name), mode="create")
            except FileExistsError:
                return False
            except OSError as exc:
                if _lost(exc):
                    return False
                raise
        return True

    def check_writable(self) -> None:
        """Nothing shows without writing: the run's record, the first write, will tell."""

    def sync_folder(self, name: str) -> None:
        """Nothing to do: an object store has no folders."""

    def read(self, name: str) -> bytes:
        with self._errors(name):
            data: bytes = self._fs.cat_file(self._path(name))
            return data

    def open(self, name: str) -> BinaryIO:
        with self._errors(name):
            stream: BinaryIO = self._fs.open(self._path(name), "rb")
            return stream

    def exists(self, name: str) -> bool:
        with self._errors(name):
            self._fs.invalidate_cache()
            return bool(self._fs.exists(self._path(name)))

    def list(self, folder: str) -> list[str]:
        with self._errors(folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def scan(self, folder: str) -> builtins.list[StoredFile]:
        with self._errors(folder):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        files = [_stored_file(entry) for entry in entries if entry["type"] == "file"]
        return sorted(files, key=lambda file: file.name)

    def delete(self, name: str) -> None:
        with self._errors(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def url_of(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(f"{self.url_of(name)}: {str(exc) or type(exc).__name__}") from exc


def _stored_file(entry: dict[str, Any]) -> StoredFile:
    times = (as_time(entry.get(key)) for key in MODIFIED_KEYS)
    modified_at = next((time for time in times if time is not None), None)
    return StoredFile(entry["name"].rsplit("/", 1)[-1], int(entry["size"] or 0), modified_at)


def _lost(exc: OSError) -> bool:
    # Servers that leave <Condition> out of the 412 body reach us as OSError(EINVAL) around botocore's error.
    response = getattr(exc.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code")) in LOST_CODES
