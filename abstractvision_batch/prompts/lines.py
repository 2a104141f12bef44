"""The lines of a text file, decoded and numbered.

Text is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one. Only a newline ends a line, so U+2028 in
a prompt is a character; where there is no newline at all, carriage returns end lines, as in files of old Macs.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

from abstractvision_batch.errors import SpecError

MAX_LINE_BYTES = 16 << 20
#: UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(stream: BinaryIO, name: str, *, split_returns: bool) -> Iterator[tuple[int, str]]:
    """Yield each line with its number and its line end.

    Args:
        stream: The file, unpacked.
        name: What messages call it.
        split_returns: Whether carriage returns end lines where no newline does.

    Raises:
        SpecError: it is not text, with the line where that shows.
    """
    pieces = _split(stream, name)
    first, second = next(pieces, None), next(pieces, None)
    lines = [line for line in (first, second) if line is not None]
    if split_returns and first is not None and second is None and b"\r" in first.rstrip(b"\r\n"):
        lines = [line + b"\n" for line in first.rstrip(b"\r\n").split(b"\r")]
    for number, data in enumerate(chain(lines, pieces), 1):
        if number == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        if b"\0" in data:
            wide = data.count(b"\0") * 3 > len(data)
            hint = "UTF-16 without a byte order mark? save it as UTF-8" if wide else "is the format right?"
            raise SpecError(f"{name}:{number}: a NUL byte: this is not text ({hint})")
        try:
            yield number, data.decode()
        except UnicodeDecodeError as error:
            byte = data[error.start : error.start + 1]
            # What most files that are not UTF-8 are in, so that a person knows the character.
            meant = byte.decode("cp1252", "replace")
            said = f", in Windows-1252 it is {meant!r}" if meant.isalpha() else ""
            shown = f"byte 0x{byte.hex()} at column {error.start + 1}"
            raise SpecError(f"{name}:{number}: {shown} is not UTF-8{said} (save the file as UTF-8)") from error


def _split(stream: BinaryIO, name: str) -> Iterator[bytes]:
    number = 0
    while data := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
        if number == 1 and encoding is not None:
            yield from _transcode(stream, data, encoding, name)
            return
        if len(data) > MAX_LINE_BYTES:
            raise SpecError(f"{name}:{number}: the line is longer than 16 MiB (is this a text file?)")
        yield data


def _transcode(stream: BinaryIO, begun: bytes, encoding: str, name: str) -> Iterator[bytes]:
    text = io.TextIOWrapper(io.BufferedReader(_Begun(begun, stream)), encoding=encoding, newline="\n")
    number = 0
    try:
        while line := text.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise SpecError(f"{name}:{number}: the line is longer than 16 MiB (is this a text file?)")
            yield line.encode()
    except UnicodeError as error:
        raise SpecError(f"{name}:{number + 1}: not {encoding.upper()}, as its byte order mark says") from error
    finally:
        text.detach()  # the stream is its opener's to close


class _Begun(io.RawIOBase):
    """A stream of which the beginning was read already."""

    def __init__(self, begun: bytes, stream: BinaryIO) -> None:
        self._begun = begun
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._begun[: len(buffer)] or self._stream.read(len(buffer))
        self._begun = self._begun[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
