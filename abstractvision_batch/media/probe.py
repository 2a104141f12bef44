"""What some bytes are, and how large: by content, never by file name or by what a server says.

Not covered: decoding (`images`, `video`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from abstractvision_batch.errors import InvalidOutputError

_ISO_STILLS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"mif1": "image/heif"}


#: The file name extension of each media type that is stored.
FILE_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Size in pixels; `frames` is 1 and `duration_s` None for a still image."""

    width: int
    height: int
    frames: int
    duration_s: float | None


def sniff_mime_type(data: bytes) -> str | None:
    """Tell the MIME type of an image or video from its first bytes; None if they say nothing."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "video/x-msvideo"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if data[:2] == b"P6" and data[2:3] in (b"\n", b" ", b"\r", b"\t"):
        return "image/x-portable-pixmap"
    if data[4:8] == b"ftyp":
        return _ISO_STILLS.get(data[8:12], "video/quicktime" if data[8:12] == b"qt  " else "video/mp4")
    if data.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm"
    return None


def probe(data: bytes, mime_type: str) -> MediaInfo:
    """Measure an encoded image or video without decoding more than needed.

    Raises:
        InvalidOutputError: the bytes are not what `mime_type` says.
        OptionalDependencyMissingError: a video, and PyAV is not installed.
    """
    if mime_type.startswith("video/"):
        from abstractvision_batch.media.video import probe_video  # decodes with PyAV, which is optional

        return probe_video(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = int(getattr(image, "n_frames", 1))
            return MediaInfo(image.width, image.height, frames, None)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InvalidOutputError(f"{mime_type}: {len(data)} bytes are not a readable image") from exc
