"""Write what made a file into the file, and read it again: bytes in, bytes out, no pixel decoded or encoded.

What a file says already stays as it is. A file that is signed (C2PA) is not touched at all: one more byte, and its
signature would no longer hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.metadata import jpeg, mp4, png, webp
from abstractvision_batch.media.metadata.infotext import parse_infotext
from abstractvision_batch.media.metadata.payload import Found, Payload, build_payload
from abstractvision_batch.media.probe import sniff_mime_type


@dataclass(frozen=True, slots=True)
class _Format:
    is_signed: Callable[[bytes], bool]
    insert: Callable[[bytes, Payload], tuple[bytes, tuple[str, ...]]]
    extract: Callable[[bytes], Found]


_FORMATS = {
    "image/png": _Format(png.is_signed, png.insert, png.extract),
    "image/jpeg": _Format(jpeg.is_signed, jpeg.insert, jpeg.extract),
    "image/webp": _Format(webp.is_signed, webp.insert, webp.extract),
    "video/mp4": _Format(mp4.is_signed, mp4.insert, mp4.extract),
}


@dataclass(frozen=True, slots=True)
class Embedded:
    """A file with its metadata, and what of them was left out: `EXIF`, or a whole sentence why all was."""

    data: bytes
    left_out: tuple[str, ...] = ()


def embed_generation(data: bytes, generation: Mapping[str, Any]) -> Embedded:
    """Write a generation into a file; equal bytes and generations give equal bytes.

    A file that cannot take it comes back as it was, with the reason in `left_out`.

    Args:
        data: a whole PNG, JPEG, WebP or MP4 file.
        generation: as `build_payload` takes it.
    """
    mime_type = sniff_mime_type(data)
    found = _FORMATS.get(mime_type or "")
    if found is None:
        return Embedded(data, (f"all: nothing is written into {mime_type or 'files of no known type'}",))
    try:
        if found.is_signed(data):
            return Embedded(data, ("all: the file is signed (C2PA)",))
        return Embedded(*found.insert(data, build_payload(generation)))
    except InvalidOutputError as error:
        return Embedded(data, (f"all: {error}",))


def read_parameters(data: bytes) -> dict[str, Any]:
    """Read what made a file: what avbatch wrote, else what another tool did, under our names as far as we have them.

    `digital_source_type` is IPTC's term, where the file has one. A file that says nothing gives an empty dict.

    Raises:
        InvalidOutputError: not a PNG, JPEG, WebP or MP4 file, or a broken one.
    """
    mime_type = sniff_mime_type(data)
    if mime_type not in _FORMATS:
        raise InvalidOutputError(f"{mime_type or 'no image or video'}: only PNG, JPEG, WebP and MP4 can be read")
    found = _FORMATS[mime_type].extract(data)
    parameters = _own(found.json)
    if parameters is None:
        parameters = {} if not found.infotext else parse_infotext(found.infotext)
    return parameters | ({"digital_source_type": found.source_type} if found.source_type else {})


def _own(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
