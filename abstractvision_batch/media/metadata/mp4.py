"""MP4: title, comment and description as iTunes writes them, and XMP in a box of its own at the end.

The media data stays as it is: no frame is decoded, no stream is written anew. Where the index comes before the media
data and grows, its offsets into it grow as well. A fragmented file is refused.

ISO/IEC 14496-12; https://developer.apple.com/documentation/quicktime-file-format/metadata_atoms_and_types
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.metadata.payload import Found, Payload
from abstractvision_batch.media.metadata.xmp import points_to_manifest, read_packet

_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_TITLE, _COMMENT, _DESCRIPTION = b"\xa9nam", b"\xa9cmt", b"desc"
_NAMES = {_TITLE: "title", _COMMENT: "comment", _DESCRIPTION: "description"}
_HANDLER = struct.pack(">I4s4s4sIIB", 0, b"", b"mdir", b"appl", 0, 0, 0)
_UTF8 = 1
#: Where the tables of offsets are, below the index.
_TABLES = {b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int
    body: int
    end: int


def is_signed(data: bytes) -> bool:
    """Whether a C2PA manifest vouches for these very bytes."""
    top = _boxes(data, 0, len(data))
    return _extension(data, top, _C2PA) is not None or points_to_manifest(_extension(data, top, _XMP) or b"")


def insert(data: bytes, payload: Payload) -> tuple[bytes, tuple[str, ...]]:
    """Return the file with what it did not have, and the names of what it had."""
    top = _boxes(data, 0, len(data))
    index = _find(top, b"moov")
    if index is None or _find(top, b"moof") is not None:
        raise InvalidOutputError("MP4: the file is fragmented, or has no index")
    there = _tags(data, index)
    left_out = [_NAMES[name] for name in _NAMES if name in there]
    texts = {_TITLE: payload.title, _COMMENT: payload.infotext, _DESCRIPTION: payload.prompt}
    tags = b"".join(_tag(name, text) for name, text in texts.items() if text and name not in there)
    xmp = b""
    if _extension(data, top, _XMP) is None:
        xmp = _box(b"uuid", _XMP + payload.xmp(json=True))
    else:
        left_out.append("XMP")
    return (_with_tags(data, index, tags) if tags else data) + xmp, tuple(left_out)


def extract(data: bytes) -> Found:
    """What the file says."""
    top = _boxes(data, 0, len(data))
    index, xmp = _find(top, b"moov"), _extension(data, top, _XMP)
    comment = None if index is None else _tags(data, index).get(_COMMENT)
    source_type, own = (None, None) if xmp is None else read_packet(xmp)
    return Found(comment, own, source_type)


def _boxes(data: bytes | bytearray, start: int, end: int) -> list[_Box]:
    return list(_read_boxes(data, start, end))


def _read_boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[_Box]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and body + 8 <= end:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        if start + size < body or start + size > end:
            raise InvalidOutputError(f"MP4: byte {start}: a box has no end, or one beyond what it is in")
        yield _Box(kind, start, body, start + size)
        start += size
    if any(data[start:end]):  # a user data box may end with four zero bytes
        raise InvalidOutputError(f"MP4: byte {start}: no box")


def _find(boxes: list[_Box], kind: bytes) -> _Box | None:
    return next((box for box in boxes if box.kind == kind), None)


def _path_to_tags(data: bytes, index: _Box) -> list[_Box]:
    """The boxes from the index down to the list of tags, as far as they are there."""
    path = [index]
    for kind in (b"udta", b"meta", b"ilst"):
        outer = path[-1]
        # Of these, only `meta` starts with a version and flags.
        inner = _boxes(data, outer.body + (4 if outer.kind == b"meta" else 0), outer.end)
        box = _find(inner, kind)
        if box is None:
            break
        path.append(box)
    return path


def _tags(data: bytes, index: _Box) -> dict[bytes, str]:
    path = _path_to_tags(data, index)
    found = {}
    for tag in _boxes(data, path[3].body, path[3].end) if len(path) == 4 else ():
        value = _find(_boxes(data, tag.body, tag.end), b"data")
        found[tag.kind] = "" if value is None else data[value.body + 8 : value.end].decode(errors="replace")
    return found


def _with_tags(data: bytes, index: _Box, tags: bytes) -> bytes:
    """Put tags into the list of them, and what is missing around it; every box around it grows."""
    path = _path_to_tags(data, index)
    new = tags
    for kind in (b"ilst", b"meta", b"udta")[: 4 - len(path)]:
        new = _box(kind, (struct.pack(">I", 0) + _box(b"hdlr", _HANDLER) if kind == b"meta" else b"") + new)
    # At the start of a user data box, whose end may be marked; else at the end.
    place = path[-1].body if path[-1].kind == b"udta" else path[-1].end
    grown = bytearray(data)
    _shift_offsets(grown, index, place, len(new))
    for box in path:
        if box.body != box.start + 8:
            raise InvalidOutputError(f"MP4: byte {box.start}: an index of more than 4 GB")
        struct.pack_into(">I", grown, box.start, box.end - box.start + len(new))
    grown[place:place] = new
    return bytes(grown)


def _shift_offsets(data: bytearray, outer: _Box, place: int, by: int) -> None:
    """Add to each offset of a chunk of media data that lies beyond `place`."""
    for box in _boxes(data, outer.body, outer.end):
        if box.kind in _TABLES:
            _shift_offsets(data, box, place, by)
        elif box.kind in (b"stco", b"co64"):
            form = ">I" if box.kind == b"stco" else ">Q"
            for at in range(box.body + 8, box.end, struct.calcsize(form)):
                (offset,) = struct.unpack_from(form, data, at)
                if offset >= place:
                    struct.pack_into(form, data, at, offset + by)


def _extension(data: bytes, top: list[_Box], uuid: bytes) -> bytes | None:
    """Of the first box of this extended type, what follows the type."""
    start = len(uuid)
    return next(
        (
            data[box.body + start : box.end]
            for box in top
            if box.kind == b"uuid" and data[box.body : box.body + start] == uuid
        ),
        None,
    )


def _tag(name: bytes, text: str) -> bytes:
    return _box(name, _box(b"data", struct.pack(">II", _UTF8, 0) + text.encode(errors="replace")))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content
