"""A folder for files that are gone after use, such as a plan before it is stored.

A killed process cannot remove its folder. Each is locked while its process lives, so later ones of the same user find
those that nobody holds, and remove them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abstractvision_batch.errors import StorageError

#: The disk is full, the quota used up, or the file larger than the system allows.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: A name is given only once the folder is locked; before, it is another one.
_PREFIX, _UNLOCKED_PREFIX = "avbatch-scratch-", "avbatch-new-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]+")
_sweeping = threading.Lock()
_swept: set[str] = set()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the system's temporary one, removed at the end.

    Raises:
        StorageError: it cannot be made, or there is no room for what is written there.
    """
    with temporary_disk():
        parent = Path(tempfile.gettempdir())
        _sweep_once(parent)
        folder, lock = _make_folder(parent)
    try:
        yield folder
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
        raise _no_room(exc) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def temporary_disk() -> Iterator[None]:
    """Turn errors of the temporary folder's disk into ours."""
    try:
        yield
    except OSError as exc:
        raise _no_room(exc) from exc


def _no_room(exc: OSError) -> StorageError:
    try:
        place = tempfile.gettempdir()
    except OSError:
        place = "the temporary folder"
    said = os.strerror(exc.errno) if exc.errno else str(exc)
    return StorageError(f"{place}: {said} (make room, or let TMPDIR name another folder)")


def _make_folder(parent: Path) -> tuple[Path, int]:
    """A folder, and an open file whose lock says that its process lives."""
    made = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
    lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks; nobody sweeps there either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return made.rename(parent / made.name.replace(_UNLOCKED_PREFIX, _PREFIX, 1)), lock
    except OSError:
        os.close(lock)
        raise


def _sweep_once(parent: Path) -> None:
    """Remove what killed processes of this user left, the first time that this process needs the folder."""
    with _sweeping:
        if str(parent) in _swept:
            return
        _swept.add(str(parent))
    for entry in os.scandir(parent):
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):  # it is in use, of somebody else, or gone
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder that no process holds.

    Raises:
        OSError: one does, or it is not a folder of this user's.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(lock)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)  # follows no link: it holds each folder open while it empties it
    finally:
        os.close(lock)
