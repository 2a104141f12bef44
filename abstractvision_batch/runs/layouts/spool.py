"""The encoded files of one shard in one temporary file, until they are put into the shard's container.

Not in memory, since a shard may hold gigabytes; and in a file without a name, which is gone with its process, however
that ends.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from typing import Protocol

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.scratch import temporary_disk


class Pieces(Protocol):
    """Encoded files under their names, ``artifacts/<shard>/<id>-<sha>.png``. A store is one."""

    def put(self, name: str, data: bytes) -> None:
        """Keep the bytes; called by several threads."""

    def read(self, name: str) -> bytes:
        """The bytes; StorageError if they are not there."""


class Spool:
    """Pieces of a shard on the local disk; `with` removes them."""

    def __init__(self) -> None:
        with temporary_disk():
            self._file = tempfile.TemporaryFile(prefix="avbatch-")  # noqa: SIM115  closed by __exit__
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # what it could not write is not needed any more; the first failure was said
            self._file.close()

    def put(self, name: str, data: bytes) -> None:
        with self._lock, temporary_disk():
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
            self._places[name] = (self._end, len(data))
            self._end += len(data)

    def read(self, name: str) -> bytes:
        if name not in self._places:
            raise StorageError(f"{name}: is not in the spool of its shard")
        offset, size = self._places[name]
        with self._lock, temporary_disk():
            self._file.seek(offset)
            return self._file.read(size)
