"""A seekable stream over an object, which reads only the ranges that are asked for.

The drivers' own streams raise their own errors in the middle of a read, and none of them tries again as our puts do.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Small reads, such as those of a Parquet footer, are served from one request of this size.
BUFFER_BYTES = 1 << 18


class ObjectReader(io.RawIOBase):
    """An object of known size.

    Args:
        size_bytes: Of the object.
        read_range: The bytes of [start, end); never asked beyond the end.
    """

    def __init__(self, size_bytes: int, read_range: Callable[[int, int], bytes]) -> None:
        self._size_bytes = size_bytes
        self._read_range = read_range
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}: before the start")
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        """The rest in one request; by default Python asks for 8 KiB at a time."""
        start, self._position = self._position, max(self._position, self._size_bytes)
        return self._read_range(start, self._size_bytes) if start < self._size_bytes else b""

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._position + len(view), self._size_bytes)
        if end <= self._position:
            return 0
        data = self._read_range(self._position, end)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_object(size_bytes: int, read_range: Callable[[int, int], bytes]) -> BinaryIO:
    """The reader, buffered."""
    return io.BufferedReader(ObjectReader(size_bytes, read_range), BUFFER_BYTES)
