"""Bounds what a compressed prompt file unpacks to: nine megabytes of gzip can hold nine gigabytes."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from abstractvision_batch.errors import SpecError

#: Text of prompts packs to a tenth, and hardly to a hundredth; a bomb to a thousandth.
MAX_RATIO = 100
#: Unpacked bytes that are let pass at any ratio.
FREE_BYTES = 4 << 20
#: Of a file that is held in memory.
MAX_HELD_BYTES = 2 << 30


def require_modest(name: str, packed_bytes: int, unpacked_bytes: int) -> None:
    """Refuse a file that unpacks to far more than its size.

    Raises:
        SpecError: it does.
    """
    if unpacked_bytes > FREE_BYTES and unpacked_bytes > MAX_RATIO * packed_bytes:
        raise SpecError(
            f"{name}: unpacks to more than {MAX_RATIO} times its size (if that is right, unpack it and name the result)"
        )


def bound_unpacking(name: str, packed: BinaryIO, unpacked: Any) -> BinaryIO:
    """Return a stream of unpacked bytes that raises SpecError where they are too many for the packed ones read."""
    return io.BufferedReader(_Bounded(name, packed, unpacked), 1 << 17)


def hold(name: str, stream: BinaryIO) -> BinaryIO:
    """Return the rest of a stream as one that can be read in any order.

    Raises:
        SpecError: it is too large to be held in memory.
    """
    data = stream.read(MAX_HELD_BYTES + 1)
    if len(data) > MAX_HELD_BYTES:
        raise SpecError(f"{name}: unpacks to more than {MAX_HELD_BYTES >> 30} GiB (unpack it and name the result)")
    return io.BytesIO(data)


class _Bounded(io.RawIOBase):
    def __init__(self, name: str, packed: BinaryIO, unpacked: Any) -> None:
        self._name = name
        self._packed = packed
        self._unpacked = unpacked
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size_bytes = int(self._unpacked.readinto(buffer) or 0)
        self._count += size_bytes
        require_modest(self._name, self._packed.tell(), self._count)
        return size_bytes
