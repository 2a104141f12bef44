"""Opens files that somebody else named: regular ones only, since reading a FIFO or a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading, without waiting.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it is a FIFO, a device or a socket, or cannot be opened.
    """
    require_regular(path)
    # Nor does the opening wait for what takes the file's place meanwhile.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what is not a regular file.

    Raises:
        FileNotFoundError: there is nothing.
        IsADirectoryError: it is a folder.
        OSError: it is a FIFO, a device or a socket.
    """
    _require_regular(Path(path).stat().st_mode, path)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Read a whole file; raises as `open_regular`."""
    with open_regular(Path(path)) as stream:
        return stream.read()


def _require_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a FIFO, a device or a socket, not a file", os.fspath(path))
