"""A run folder on a local disk, written so that a crash or a power cut leaves whole files or none.

fsspec's own local ``mode="create"`` checks and then opens, so two writers can both win; a hard link cannot.
A file is synced before it gets its name, and the folder of a new folder at once. The name is synced at once where it is
put if absent, and directly in the root; elsewhere a caller that puts many files in a folder syncs it after the last.

A folder may come from a stranger: names stay inside it (`names`), links out of it are not followed, whether to read,
to write or to delete, and what is not a regular file (a FIFO, a device, a socket) is not listed, and refused by name.
Not covered: someone who exchanges folders for links while this process works in them.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.failures import is_transient
from abstractvision_batch.storage.names import TEMPORARY_PREFIX, StoredFile, check_name, is_plain

#: What `link` fails with on file systems that have none: some FUSE, 9p and network mounts say one of the last four.
NO_HARD_LINKS = (
    *(errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EXDEV, errno.EMLINK),
    errno.EINVAL,
)


class LocalStore:
    """Names under one local folder, which is made when the first name is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        return str(self.root)

    def put(self, name: str, data: bytes | Path) -> None:
        with self._temporary(name) as part:
            _write_synced(part, data)
            self._replace(part, self._path(name))

    def put_if_absent(self, name: str, data: bytes | Path) -> bool:
        with self._temporary(name) as part:
            _write_synced(part, data)
            return self._link(part, self._path(name))

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
        with _storage_errors(self.root):  # a name may be too long
            nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not nearest.is_dir():
            raise StorageError(f"{nearest}: is a file, not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise StorageError(f"{nearest}: permission denied")

    def sync_folder(self, name: str) -> None:
        folder = self._folder(name)
        with _storage_errors(folder), contextlib.suppress(FileNotFoundError):
            sync_folder(folder)

    def read(self, name: str) -> bytes:
        with self.open(name) as file, _storage_errors(self.root / name):
            return file.read()

    def read_range(self, name: str, offset_bytes: int, size_bytes: int) -> bytes:
        if offset_bytes < 0 or size_bytes < 0:
            raise StorageError(f"{self.root / name}: {size_bytes} bytes from {offset_bytes} on are no part of a file")
        with self.open(name) as file, _storage_errors(self.root / name):
            there = max(0, os.fstat(file.fileno()).st_size - offset_bytes)  # Python sets aside what it is asked for
            file.seek(offset_bytes)
            return file.read(min(size_bytes, there))

    def open(self, name: str) -> BinaryIO:
        path = self._path(name)
        with _storage_errors(path):
            mode = self._target_status(path).st_mode
            if not stat.S_ISREG(mode):
                raise StorageError(f"{path}: is {_kind(mode)}, not a file")
            return path.open("rb")

    def exists(self, name: str) -> bool:
        path = self._path(name)
        with _storage_errors(path):
            try:
                linked = path.is_symlink()
                if not linked or self._holds(path):
                    path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True  # a link that leads out is there, and reading it says so

    def list(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(folder) if not entry.name.startswith("."))

    def scan(self, folder: str) -> builtins.list[StoredFile]:
        found = []
        with _storage_errors(self.root / folder):
            for entry, status in self._statuses(folder):
                if stat.S_ISREG(status.st_mode):
                    found.append(StoredFile(entry.name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)))
        return sorted(found, key=lambda file: file.name)

    def list_folders(self, folder: str) -> builtins.list[str]:
        with _storage_errors(self.root / folder):
            folders = [entry.name for entry, status in self._statuses(folder) if stat.S_ISDIR(status.st_mode)]
        return sorted(name for name in folders if not name.startswith("."))

    def delete(self, name: str) -> None:
        path = self._path(name)
        with _storage_errors(path):
            path.unlink(missing_ok=True)

    def url_of(self, name: str) -> str:
        return str(self.root / name)

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        target = self._path(name)
        part = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        with _storage_errors(target):
            _make_folders(target.parent)
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        """Where a file is or would be: in a folder inside the root."""
        folder, _, last = check_name(name).rpartition("/")
        return self._folder(folder) / last

    def _folder(self, name: str) -> Path:
        """Where a folder is or would be, however many links lead to it: inside the root."""
        path = self.root
        for segment in check_name(name).split("/") if name else ():
            path /= segment
            with _storage_errors(path):  # a name may be too long
                is_link = path.is_symlink()
            if is_link:
                self._require_inside(path)
        return path

    def _target_status(self, path: Path) -> os.stat_result:
        """What a path names, not followed out of the root."""
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            self._require_inside(path)
            return path.stat()
        return status

    def _require_inside(self, link: Path) -> None:
        if not self._holds(link):
            raise StorageError(f"{link}: is a link that leads out of {self.root} (copy there what it leads to)")

    def _holds(self, link: Path) -> bool:
        root = os.path.realpath(self.root)
        return os.path.commonpath([root, os.path.realpath(link)]) == root

    def _entries(self, folder: str) -> builtins.list[os.DirEntry[str]]:
        path = self._folder(folder)
        with _storage_errors(path):
            try:
                with os.scandir(path) as entries:
                    return [entry for entry in entries if is_plain(entry.name)]
            except FileNotFoundError:
                return []

    def _statuses(self, folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """Entries of a folder with what they are; links that lead out or nowhere are none of them."""
        for entry in self._entries(folder):
            linked = entry.is_symlink()
            if linked and not self._holds(Path(entry)):
                continue
            try:
                yield entry, entry.stat()
            except OSError as exc:
                # One that another process renames or removes meanwhile is not there.
                if not (isinstance(exc, FileNotFoundError) or (linked and exc.errno == errno.ELOOP)):
                    raise

    def _replace(self, part: Path, target: Path) -> None:
        part.replace(target)
        if target.parent == self.root:
            sync_folder(self.root)

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
            if os.path.lexists(target):
                return False
            part.replace(target)
        sync_folder(target.parent)
        return True


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, each of which survives a power cut."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def _write_synced(path: Path, data: bytes | Path) -> None:
    with path.open("xb") as file, data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as source:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def sync_folder(folder: Path) -> None:
    """Put on disk which names a folder has."""
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
        raise StorageError(f"{path}: {exc.strerror or exc}", transient=is_transient(exc)) from exc
