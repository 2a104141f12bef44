"""PNG: text chunks before the picture's data. The chunks that are there stay as they are, byte for byte.

`parameters` is where A1111 writes, `XML:com.adobe.xmp` where XMP belongs, `avbatch` our own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.metadata.payload import Found, Payload
from abstractvision_batch.media.metadata.xmp import points_to_manifest, read_packet

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INFOTEXT, _XMP, _OWN = "parameters", "XML:com.adobe.xmp", "avbatch"
_C2PA = b"caBX"
#: A compressed text that is larger is not read: it may be made to fill the memory.
_MAX_TEXT = 16 * 2**20


def is_signed(data: bytes) -> bool:
    """Whether a C2PA manifest vouches for these very bytes."""
    chunks = list(_chunks(data))
    return any(kind == _C2PA for kind, _, _ in chunks) or points_to_manifest(_texts(chunks).get(_XMP, b""))


def insert(data: bytes, payload: Payload) -> tuple[bytes, tuple[str, ...]]:
    """Return the file with what it did not have, and the names of what it had."""
    chunks = list(_chunks(data))
    there = _texts(chunks)
    new = {
        _INFOTEXT: _text_chunk(_INFOTEXT, payload.infotext),
        _OWN: _text_chunk(_OWN, payload.json),
        _XMP: _international_chunk(_XMP, payload.xmp()),
    }
    before = next((start for kind, start, _ in chunks if kind == b"IDAT"), None)
    if before is None:
        raise InvalidOutputError("PNG: there is no picture in it")
    added = b"".join(chunk for name, chunk in new.items() if name not in there)
    return data[:before] + added + data[before:], tuple(name for name in new if name in there)


def extract(data: bytes) -> Found:
    """What the file says."""
    texts = _texts(list(_chunks(data)))
    source_type = read_packet(texts[_XMP])[0] if _XMP in texts else None
    infotext, own = (None if name not in texts else texts[name].decode(errors="replace") for name in (_INFOTEXT, _OWN))
    return Found(infotext, own, source_type)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Each chunk's type, where it starts, and its content."""
    if not data.startswith(_SIGNATURE):
        raise InvalidOutputError("PNG: the signature is another's")
    start = len(_SIGNATURE)
    while start < len(data):
        if start + 12 > len(data):
            raise InvalidOutputError(f"PNG: byte {start}: a chunk ends beyond the file")
        length, kind = struct.unpack_from(">I4s", data, start)
        if start + 12 + length > len(data):
            raise InvalidOutputError(f"PNG: byte {start}: a chunk ends beyond the file")
        yield kind, start, data[start + 8 : start + 8 + length]
        if kind == b"IEND":
            return
        start += 12 + length


def _texts(chunks: list[tuple[bytes, int, bytes]]) -> dict[str, bytes]:
    """Texts by keyword, as UTF-8; the first of a keyword counts, and what cannot be read is empty."""
    found: dict[str, bytes] = {}
    for kind, _, content in chunks:
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = content.partition(b"\x00")
            found.setdefault(keyword.decode("latin-1"), _decoded(kind, rest))
    return found


def _decoded(kind: bytes, rest: bytes) -> bytes:
    if kind == b"tEXt":
        return rest.decode("latin-1").encode()
    if kind == b"zTXt":
        return _inflated(rest[1:]).decode("latin-1").encode()
    _, _, text = rest[2:].split(b"\x00", 2) if rest[2:].count(b"\x00") >= 2 else (b"", b"", b"")
    return _inflated(text) if rest[:1] == b"\x01" else text


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
    except zlib.error:
        return b""


def _text_chunk(keyword: str, text: str) -> bytes:
    """As A1111 and Pillow choose: tEXt where Latin-1 does, else iTXt."""
    text = text.replace("\x00", "\ufffd")
    try:
        return _chunk(b"tEXt", keyword.encode() + b"\x00" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _international_chunk(keyword, text.encode(errors="replace"))


def _international_chunk(keyword: str, text: bytes) -> bytes:
    return _chunk(b"iTXt", keyword.encode() + b"\x00\x00\x00\x00\x00" + text)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
