"""JPEG: EXIF and XMP as APP1 segments after the file's header. The segments that are there stay, byte for byte.

A segment holds 65,533 bytes. A text that is longer stays out; XMP that is longer keeps its marking alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.metadata.exif import HEADER, read_user_comment, write_user_comment
from abstractvision_batch.media.metadata.payload import Found, Payload
from abstractvision_batch.media.metadata.xmp import points_to_manifest, read_packet

_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\x00"
_MAX_CONTENT = 65_533
_START, _APP0, _APP1, _APP11, _SCAN = 0xD8, 0xE0, 0xE1, 0xEB, 0xDA


def is_signed(data: bytes) -> bool:
    """Whether a C2PA manifest vouches for these very bytes."""
    return any(
        (marker == _APP11 and b"jumb" in content and b"c2pa" in content)
        or (marker == _APP1 and content.startswith(_XMP_HEADER) and points_to_manifest(content))
        for marker, _, content in _segments(data)
    )


def insert(data: bytes, payload: Payload) -> tuple[bytes, tuple[str, ...]]:
    """Return the file with what it did not have, and the names of what it had or cannot hold."""
    segments = list(_segments(data))
    left_out: list[str] = []
    added = b""
    exif = HEADER + write_user_comment(payload.infotext)
    if _content(segments, HEADER) is not None:
        left_out.append("EXIF")
    elif len(exif) > _MAX_CONTENT:
        left_out.append("EXIF (too long)")
    else:
        added += _segment(exif)
    xmp = _XMP_HEADER + payload.xmp(json=True)
    if _content(segments, _XMP_HEADER) is not None:
        left_out.append("XMP")
    elif len(xmp) > _MAX_CONTENT:
        left_out.append("avbatch (too long)")
        added += _segment(_XMP_HEADER + payload.xmp(short=True))
    else:
        added += _segment(xmp)
    # JFIF's own segment is the first wherever there is one.
    after = next((end for marker, end, _ in segments[:1] if marker == _APP0), 2)
    return data[:after] + added + data[after:], tuple(left_out)


def extract(data: bytes) -> Found:
    """What the file says."""
    segments = list(_segments(data))
    exif, xmp = _content(segments, HEADER), _content(segments, _XMP_HEADER)
    source_type, own = (None, None) if xmp is None else read_packet(xmp)
    return Found(None if exif is None else read_user_comment(exif), own, source_type)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each segment before the picture's data: its marker, where it ends, and its content."""
    if data[:2] != bytes((0xFF, _START)):
        raise InvalidOutputError("JPEG: the signature is another's")
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # a fill byte
            start += 1
            continue
        if marker == _SCAN:
            return
        (length,) = struct.unpack_from(">H", data, start + 2)
        end = start + 2 + length
        if length < 2 or end > len(data):
            break
        yield marker, end, data[start + 4 : end]
        start = end
    raise InvalidOutputError(f"JPEG: byte {start}: a segment ends beyond the file")


def _content(segments: list[tuple[int, int, bytes]], header: bytes) -> bytes | None:
    """Of the first APP1 segment with this header, what follows it."""
    return next(
        (content[len(header) :] for marker, _, content in segments if marker == _APP1 and content.startswith(header)),
        None,
    )


def _segment(content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, _APP1, len(content) + 2) + content
