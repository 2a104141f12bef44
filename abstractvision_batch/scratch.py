"""A folder for files that are gone after use, such as a plan before it is stored."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abstractvision_batch.errors import StorageError

#: The disk is full, the quota used up, or the file larger than the system allows.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the system's temporary one, removed at the end.

    Raises:
        StorageError: there is no room for what is written there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="avbatch-") as folder:
            yield Path(folder)
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
        raise StorageError(
            f"{tempfile.gettempdir()}: {os.strerror(exc.errno)} (make room, or let TMPDIR name another folder)"
        ) from exc
