"""A run folder on a local disk, written so that a crash or a power cut leaves whole files or none.

fsspec's own local ``mode="create"`` checks and then opens, so two writers can both win; a hard link cannot.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.stored_file import StoredFile, as_time

#: Readers of datasets skip names that start with a dot, and so does `list`.
TEMPORARY_PREFIX = ".tmp-"
#: What `link` fails with on file systems that have none.
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class LocalStore:
    """Names under one local folder, which is made when the first name is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        return str(self.root)

    def put(self, name: str, data: bytes) -> None:
        with self._temporary(name) as part:
            _write_synced(part, data)
            part.replace(self.root / name)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self._temporary(name) as part:
            _write_synced(part, data)
            return self._link(part, self.root / name)

    def put_file(self, name: str, path: Path) -> None:
        with self._temporary(name) as part:
            _copy_synced(path, part)
            part.replace(self.root / name)

    def put_file_if_absent(self, name: str, path: Path) -> bool:
        with self._temporary(name) as part:
            _copy_synced(path, part)
            return self._link(part, self.root / name)

    def probe_conditional_put(self) -> bool | None:
        name = f"{TEMPORARY_PREFIX}probe"
        with self._temporary(name) as first, self._temporary(name) as second:
            first.touch()
            try:
                os.link(first, second)
            except OSError as exc:
                if exc.errno in NO_HARD_LINKS:
                    return False
                raise
        return True

    def check_writable(self) -> None:
        nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not nearest.is_dir():
            raise StorageError(f"{nearest}: is a file, not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise StorageError(f"{nearest}: permission denied")

    def sync_folder(self, name: str) -> None:
        with _storage_errors(self.root / name), contextlib.suppress(FileNotFoundError):
            _sync_folder(self.root / name)

    def read(self, name: str) -> bytes:
        with _storage_errors(self.root / name):
            return (self.root / name).read_bytes()

    def read_range(self, name: str, offset_bytes: int, size_bytes: int) -> bytes:
        with _storage_errors(self.root / name), (self.root / name).open("rb") as file:
            file.seek(offset_bytes)
            return file.read(size_bytes)

    def open(self, name: str) -> BinaryIO:
        with _storage_errors(self.root / name):
            return (self.root / name).open("rb")

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def list(self, folder: str) -> list[str]:
        with _storage_errors(self.root / folder):
            try:
                return sorted(entry.name for entry in os.scandir(self.root / folder) if not entry.name.startswith("."))
            except FileNotFoundError:
                return []

    def scan(self, folder: str) -> builtins.list[StoredFile]:
        found = []
        with _storage_errors(self.root / folder), contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.root / folder):
                # One that another process renames or removes meanwhile is not there.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file():
                        status = entry.stat()
                        found.append(StoredFile(entry.name, status.st_size, as_time(status.st_mtime)))
        return sorted(found, key=lambda file: file.name)

    def list_folders(self, folder: str) -> builtins.list[str]:
        with _storage_errors(self.root / folder):
            try:
                entries = [entry for entry in os.scandir(self.root / folder) if entry.is_dir()]
            except FileNotFoundError:
                return []
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))

    def delete(self, name: str) -> None:
        with _storage_errors(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def url_of(self, name: str) -> str:
        return str(self.root / name)

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        target = self.root / name
        part = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        with _storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)

    @staticmethod
    def _link(part: Path, target: Path) -> bool:
        try:
            os.link(part, target)
        except FileExistsError:
            return False
        except OSError as exc:
            if exc.errno not in NO_HARD_LINKS:
                raise
            # A file system without hard links (FAT, some FUSE mounts): the check and the rename are two steps there.
            if target.exists():
                return False
            part.replace(target)
        _sync_folder(target.parent)
        return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_synced(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror or exc}") from exc
