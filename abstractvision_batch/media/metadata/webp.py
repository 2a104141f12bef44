"""WebP: EXIF and XMP chunks after the picture, and the extended header that announces them.

What is there stays byte for byte, but for the header's flags and the file's length.
https://developers.google.com/speed/webp/docs/riff_container
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.metadata.exif import read_user_comment, write_user_comment
from abstractvision_batch.media.metadata.payload import Found, Payload
from abstractvision_batch.media.metadata.xmp import points_to_manifest, read_packet

_EXTENDED, _LOSSY, _LOSSLESS, _EXIF, _XMP, _C2PA = b"VP8X", b"VP8 ", b"VP8L", b"EXIF", b"XMP ", b"C2PA"
_ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x10, 0x08, 0x04


def is_signed(data: bytes) -> bool:
    """Whether a C2PA manifest vouches for these very bytes."""
    chunks = _chunks(data)
    return _C2PA in dict(chunks) or points_to_manifest(dict(chunks).get(_XMP, b""))


def insert(data: bytes, payload: Payload) -> tuple[bytes, tuple[str, ...]]:
    """Return the file with what it did not have, and the names of what it had."""
    chunks = _chunks(data)
    there = dict(chunks)
    if chunks[0][0] != _EXTENDED:
        chunks.insert(0, (_EXTENDED, _extended_header(*chunks[0])))
    new = {_EXIF: write_user_comment(payload.infotext), _XMP: payload.xmp(json=True)}
    chunks += [(name, content) for name, content in new.items() if name not in there]
    header = chunks[0][1]
    chunks[0] = (_EXTENDED, bytes((header[0] | _EXIF_FLAG | _XMP_FLAG,)) + header[1:])
    body = b"WEBP" + b"".join(_chunk(name, content) for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body, tuple(name.decode().strip() for name in new if name in there)


def extract(data: bytes) -> Found:
    """What the file says."""
    there = dict(_chunks(data))
    source_type, own = read_packet(there[_XMP]) if _XMP in there else (None, None)
    return Found(read_user_comment(there[_EXIF]) if _EXIF in there else None, own, source_type)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Each chunk's name and content, the picture's or the extended header first."""
    found = list(_read_chunks(data))
    if not found or found[0][0] not in (_EXTENDED, _LOSSY, _LOSSLESS) or len(found[0][1]) < 10:
        raise InvalidOutputError("WebP: there is no picture in it")
    return found


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise InvalidOutputError("WebP: the signature is another's")
    end = 8 + int.from_bytes(data[4:8], "little")
    start = 12
    while start + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, start) if start + 8 <= len(data) else (b"", end)
        if start + 8 + length > len(data):
            raise InvalidOutputError(f"WebP: byte {start}: a chunk ends beyond the file")
        yield name, data[start + 8 : start + 8 + length]
        start += 8 + length + length % 2


def _extended_header(name: bytes, picture: bytes) -> bytes:
    """The extended header of a simple file: flags, three reserved bytes, width and height less one in 24 bits each."""
    if name == _LOSSLESS:
        bits = int.from_bytes(
            picture[1:5], "little"
        )  # after a signature byte: 14 bits each, then whether alpha is used
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:
        across, down = struct.unpack_from("<HH", picture, 6)  # the two bits above them are a scale
        width, height, alpha = (across & 0x3FFF) - 1, (down & 0x3FFF) - 1, 0
    if width < 0 or height < 0:
        raise InvalidOutputError("WebP: the picture has no size")
    flags = _ALPHA_FLAG if alpha else 0
    return bytes((flags, 0, 0, 0)) + width.to_bytes(3, "little") + height.to_bytes(3, "little")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)
