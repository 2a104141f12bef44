"""Images and masks to upload: checked here, so that a bad file fails before a server is asked.

Pictures go as files that any reader sees alike: upright, without transparency, 8 bits a channel. A mask is sent so that
both conventions read it right: white where pixels change (local servers), and transparent where pixels change (OpenAI).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageChops

from abstractvision_batch.backends.openai_compatible.form import Upload
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.images import EXTENSIONS, encode_image
from abstractvision_batch.media.inputs import is_plain, read_picture
from abstractvision_batch.media.inputs import read_mask as read_whites
from abstractvision_batch.media.probe import sniff_mime_type

#: Of an edit, by OpenAI's rules.
MAX_IMAGES = 16


def read_images(image: bytes, extra: Mapping[str, Any], *, field: str) -> tuple[Image.Image, list[Upload]]:
    """The input image decoded, and it and `extra.images` as uploads.

    Args:
        image: An encoded image.
        extra: Its `images` lists more input images: bytes, base64 or data URLs.
        field: The form's field for one image; several go to `image[]`.

    Raises:
        GenerationError: one is no readable image, or there are too many.
    """
    more = extra.get("images") or ()
    if not isinstance(more, list | tuple):
        raise GenerationError("openai: extra.images is not a list of images (bytes, base64 or data URLs)")
    if len(more) >= MAX_IMAGES:
        raise GenerationError(f"openai: {len(more) + 1} input images; a call takes {MAX_IMAGES}")
    contents = [image, *(_as_bytes(item, f"extra.images[{index}]") for index, item in enumerate(more))]
    field = "image[]" if more else field
    uploads, first = [], None
    for index, content in enumerate(contents):
        name = "input image" if index == 0 else f"extra.images[{index - 1}]"
        decoded = read_picture(content, name=name)
        first = first or decoded
        stored = len(content) > decoded.width * decoded.height * 3  # a file without compression
        if stored or not is_plain(content):
            content = encode_image(decoded, "png")
        mime_type = sniff_mime_type(content) or "image/png"
        uploads.append(Upload(field, f"image{index or ''}{EXTENSIONS[mime_type]}", content, mime_type))
    assert first is not None
    return first, uploads


def read_mask(mask: bytes, image: Image.Image, *, field: str = "mask") -> Upload:
    """The mask, white where pixels change, as an upload that says the same by its alpha channel.

    Raises:
        GenerationError: it is no readable image, or not as large as the input image.
    """
    decoded = read_whites(mask)
    if decoded.size != image.size:
        mine, theirs = (f"{one.width}x{one.height}" for one in (decoded, image))
        raise GenerationError(f"mask: is {mine} where the input image is {theirs} (make them equally large)")
    both = Image.merge("RGBA", (decoded, decoded, decoded, ImageChops.invert(decoded)))
    return Upload(field, "mask.png", encode_image(both, "png"), "image/png")


def _as_bytes(item: Any, name: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise GenerationError(f"{name}: is a {type(item).__name__} (bytes, base64 or a data URL)")
    return decode_base64(item, name=name)


def decode_base64(text: str, *, name: str) -> bytes:
    """Bytes of base64, with or without padding, line breaks or a `data:` prefix, in either alphabet.

    Raises:
        GenerationError: it is not base64.
    """
    encoded = text.partition(",")[2] if text.lstrip()[:5].lower() == "data:" else text
    encoded = "".join(encoded.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise GenerationError(f"{name}: is not base64 ({exc})") from exc
