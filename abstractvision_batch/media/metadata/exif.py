"""EXIF that holds one text, where A1111's readers look for it: UserComment, as big-endian UTF-16 after `UNICODE`.

The block is big-endian as well, so that readers that go by the block's byte order read the same as those that do not.
"""

from __future__ import annotations

import struct
import warnings

from PIL import Image

from abstractvision_batch.errors import InvalidOutputError

_EXIF_IFD = 0x8769
_VERSION = 0x9000
_USER_COMMENT = 0x9286
_UNICODE = b"UNICODE\x00"
_ASCII = b"ASCII\x00\x00\x00"
HEADER = b"Exif\x00\x00"


def write_user_comment(text: str) -> bytes:
    """Write an EXIF block, without the header that JPEG puts before it; equal texts give equal bytes."""
    comment = _UNICODE + text.encode("utf-16-be", "replace")
    first, second = 8, 8 + 2 + 12 + 4  # where each directory starts: a count, an entry each of 12 bytes, no next one
    entry, undefined, long = ">HHI4s", 7, 4
    return b"".join(
        (
            b"MM\x00*" + struct.pack(">I", first),
            struct.pack(">H", 1),
            struct.pack(entry, _EXIF_IFD, long, 1, struct.pack(">I", second)),
            struct.pack(">I", 0),
            struct.pack(">H", 2),
            struct.pack(entry, _VERSION, undefined, 4, b"0232"),
            struct.pack(entry, _USER_COMMENT, undefined, len(comment), struct.pack(">I", second + 2 + 2 * 12 + 4)),
            struct.pack(">I", 0),
            comment,
        )
    )


def read_user_comment(block: bytes) -> str | None:
    """The text of an EXIF block, with or without its header; None where there is none.

    Raises:
        InvalidOutputError: the bytes are no EXIF.
    """
    exif = Image.Exif()
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is wrong elsewhere in the block
            exif.load(HEADER + block.removeprefix(HEADER))
            comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error) as exc:
        raise InvalidOutputError(f"EXIF: {len(block)} bytes are not readable ({exc})") from exc
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else None
    code, body = comment[:8], comment[8:]
    if code == _UNICODE:
        # Some writers put little-endian: Latin text tells, by where its zero bytes are.
        little = body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace")
    return body.decode("ascii" if code == _ASCII else "utf-8", "replace").strip("\x00 ") or None
