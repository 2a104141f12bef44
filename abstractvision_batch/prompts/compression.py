"""Unpacks prompt files: gzip, bzip2, xz and Zstandard, known by their first bytes, whatever their names say."""

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
