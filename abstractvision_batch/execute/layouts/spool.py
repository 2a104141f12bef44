"""The encoded files of one shard in one temporary file, until they are put into the shard's container.

Not in memory, since a shard may hold gigabytes; and in a file without a name, which is gone with its process, however
that ends.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from abstractvision_batch.errors import StorageError


class Spool:
    """Pieces of a shard on the local disk; `with` removes them."""

    def __init__(self) -> None:
        with local_disk():
            self._file = tempfile.TemporaryFile(prefix="avbatch-")  # noqa: SIM115  closed by __exit__
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def put(self, name: str, data: bytes) -> None:
        with self._lock, local_disk():
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
            self._places[name] = (self._end, len(data))
            self._end += len(data)

    def read(self, name: str) -> bytes:
        if name not in self._places:
            raise StorageError(f"{name}: is not in the spool of its shard")
        offset, size = self._places[name]
        with self._lock, local_disk():
            self._file.seek(offset)
            return self._file.read(size)


@contextmanager
def local_disk() -> Iterator[None]:
    """Turn errors of the temporary folder's disk into ours."""
    try:
        yield
    except OSError as exc:
        place = tempfile.gettempdir()
        raise StorageError(f"{place}: {os.strerror(exc.errno or 0)} (TMPDIR names another folder)") from exc
