"""What a backend generated as the bytes of one file, in the run's format, and the manifest columns that describe it.

Not covered: where the bytes go (`artifact_writer`).
"""

from __future__ import annotations

from typing import Any

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.job.model import OutputSpec
from abstractvision_batch.media.file_extensions import FILE_EXTENSIONS
from abstractvision_batch.media.images import MIME_TYPES, decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.media.video import video_pixel_sha256
from abstractvision_batch.types import GeneratedAsset


def encode_asset(asset: GeneratedAsset, output: OutputSpec) -> tuple[dict[str, Any], bytes]:
    """The columns from `content_type` to `duration_s`, and the file's bytes.

    Raises:
        InvalidOutputError: the bytes are no image or video.
    """
    if asset.media_type == "video":
        return _measure_video(asset)
    return _encode_image(asset, output)


def _encode_image(asset: GeneratedAsset, output: OutputSpec) -> tuple[dict[str, Any], bytes]:
    image = decode_image(asset.data, name="the generated image")
    wanted = MIME_TYPES[output.image_format]
    data = asset.data
    if sniff_mime_type(data) != wanted:
        data = encode_image(image, output.image_format, jpeg_quality=output.jpeg_quality)
        if wanted == "image/jpeg":
            image = decode_image(data)  # JPEG loses pixels: the hash is of what the file holds
    columns = {
        "content_type": wanted,
        "pixel_sha256": pixel_sha256(image),
        "media_width": image.width,
        "media_height": image.height,
        "media_frames": 1,
        "duration_s": None,
    }
    return columns, data


def _measure_video(asset: GeneratedAsset) -> tuple[dict[str, Any], bytes]:
    mime_type = sniff_mime_type(asset.data)
    if mime_type not in FILE_EXTENSIONS:
        raise InvalidOutputError(f"the generated video is {mime_type or 'of no known type'}, not MP4 or WebM")
    info = probe(asset.data, mime_type)
    columns = {
        "content_type": mime_type,
        "pixel_sha256": video_pixel_sha256(asset.data),
        "media_width": info.width,
        "media_height": info.height,
        "media_frames": info.frames,
        "duration_s": info.duration_s,
    }
    return columns, asset.data
