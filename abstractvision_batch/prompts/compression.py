"""Unpacks prompt files: gzip, bzip2, xz and Zstandard, known by their first bytes, whatever their names say.

What a file unpacks to is bounded: nine megabytes of gzip can hold nine gigabytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.prompt_files import COMPRESSIONS

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_BLOCK_MAGIC_OF_BZIP2 = b"1AY&SY"


@contextmanager
def unpacked(raw: BinaryIO, name: str) -> Iterator[BinaryIO | None]:
    """Open what is packed in a file; None where nothing is.

    Raises:
        SpecError: it is damaged, or its name promises a compression that it does not have.
    """
    found = _kind_of(raw)
    promised = next((kind for ending, kind in COMPRESSIONS.items() if name.lower().endswith(ending)), None)
    if promised is not None and found != promised:
        raise SpecError(f"{name}: the {promised} file cannot be read: it does not begin as one does (correct its name)")
    try:
        match found:
            case None:
                yield None
            case "gzip":
                with gzip.open(raw) as stream:
                    yield stream  # type: ignore[misc]
            case "bzip2":
                with bz2.open(raw) as stream:
                    yield stream  # type: ignore[misc]
            case "xz":
                with lzma.open(raw) as stream:
                    yield stream  # type: ignore[misc]
            case _:
                with io.BufferedReader(_zstandard(raw)) as stream:
                    yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SpecError(f"{name}: the {found} file cannot be read: {error}") from error
    except OSError as error:
        if found in (None, "gzip") or error.errno is not None:
            raise
        raise SpecError(f"{name}: the {found} file cannot be read: {error}") from error


def _kind_of(raw: BinaryIO) -> str | None:
    begin = raw.read(10)
    raw.seek(0)
    found = next((kind for magic, kind in _MAGIC.items() if begin.startswith(magic)), None)
    # "BZh" may be how a text begins.
    return None if found == "bzip2" and begin[4:] != _BLOCK_MAGIC_OF_BZIP2 else found


def _zstandard(raw: BinaryIO) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


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
