"""Input pictures and masks: read and fitted to a size by one set of rules, whatever generates.

    bytes → upright by EXIF → 8 bits → picture: RGB, transparent parts over white
                                     → mask: one channel, white pixels change

A mask with transparent pixels is read by its alpha channel: what is transparent changes, and the colours say nothing.
Any other mask is read by its lightness: what is white changes, grey changes in part.

Not covered: which size a request has (`prompts.sizes`), where the bytes come from (`execute.requests`).
"""

from __future__ import annotations

import io
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps

from abstractvision_batch.errors import GenerationError, InputImageError
from abstractvision_batch.media.images import decode_image, encode_image, to_rgb_array
from abstractvision_batch.media.probe import sniff_mime_type
from abstractvision_batch.types import Fit

#: A picture that a backend gets in place of a file lies in memory for a moment, so it is not compressed.
_STORED = 0
_PLAIN_FORMATS = ("image/png", "image/jpeg", "image/webp")
_PLAIN_MODES = ("RGB", "L")
_DARK = 8
_MASK_LIKE = 0.99


def read_picture(data: bytes, *, name: str = "input image") -> Image.Image:
    """Decode an input picture as RGB, upright, with transparent parts laid over white.

    Raises:
        InputImageError: the bytes are no readable image, or their values have no known white.
    """
    return Image.fromarray(to_rgb_array(_decode(data, name)))


def read_mask(data: bytes, *, name: str = "mask") -> Image.Image:
    """Decode a mask as one channel of 8 bits in which white pixels change.

    Raises:
        InputImageError: the bytes are no readable image, the mask changes nothing, or its alpha channel and its
            visible colours say different things.
    """
    image = _decode(data, name)
    if "A" in image.getbands():
        changes = ImageChops.invert(image.getchannel("A"))
        if _is_drawn_otherwise(image, changes):
            raise InputImageError(
                f"{name}: it is drawn in black and white and has transparent parts too, which say something else "
                "(save it without transparency, where white changes; or as one colour, where transparent changes)"
            )
    else:
        changes = image.convert("L")
    brightest = _brightest(changes)
    if brightest < _DARK:
        found = "it is black everywhere" if brightest == 0 else f"its brightest pixel is {brightest} of 255"
        raise InputImageError(f"{name}: it changes nothing: {found} (white or transparent pixels change)")
    return changes


def fit_picture(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Bring an RGB picture to a size; `crop` keeps its middle, `pad` adds white, and the others scale each side.

    With `error` the aspects differ by rounding at most: planning the job has checked it.
    """
    if image.size == size:
        return image
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if fit == "pad":
        return ImageOps.pad(image, size, Image.Resampling.LANCZOS, color="white")
    return image.resize(size, Image.Resampling.LANCZOS)


def fit_mask(mask: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Bring a mask to a size as its picture is; what `pad` adds does not change."""
    if mask.size == size:
        return mask
    if fit == "crop":
        return ImageOps.fit(mask, size, Image.Resampling.BILINEAR)
    if fit == "pad":
        return ImageOps.pad(mask, size, Image.Resampling.BILINEAR, color=0)
    return mask.resize(size, Image.Resampling.BILINEAR)


def prepare_picture(
    data: bytes,
    size: tuple[int, int] | None,
    fit: Fit,
    *,
    planned: tuple[int, int] | None = None,
    name: str = "input image",
) -> bytes:
    """Encode a picture as every backend is to see it: RGB, of this size, else of its own.

    A file that is so already is returned as it is.

    Args:
        data: The file.
        size: Width and height.
        fit: How it comes to a size of another aspect.
        planned: The upright size that `size` was decided for.
        name: What the error message calls it.

    Raises:
        InputImageError: the bytes are no readable image, or not of the size that was planned.
    """
    image = read_picture(data, name=name)
    if planned is not None and image.size != planned:
        there, here = (f"{width}x{height}" for width, height in (planned, image.size))
        raise InputImageError(
            f"{name}: its header says {there}, and its pixels are {here} upright (save it without an orientation)"
        )
    if size in (None, image.size) and is_plain(data):
        return data
    return encode_image(fit_picture(image, size or image.size, fit), "png", png_level=_STORED)


def prepare_mask(data: bytes, size: tuple[int, int], fit: Fit, *, name: str = "mask") -> bytes:
    """Encode a mask as every backend is to see it: one channel of this size, in which white changes.

    Raises:
        InputImageError: the mask is of no use.
    """
    return encode_mask(fit_mask(read_mask(data, name=name), size, fit))


def encode_mask(mask: Image.Image) -> bytes:
    """Encode one channel as a PNG file without colours."""
    out = io.BytesIO()
    mask.save(out, "PNG", compress_level=1)
    return out.getvalue()


def is_plain(data: bytes) -> bool:
    """Whether any reader sees the pixels that `read_picture` returns."""
    if sniff_mime_type(data) not in _PLAIN_FORMATS:
        return False
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # PNG may have its tags at the end
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        still = getattr(image, "n_frames", 1) == 1
        return image.mode in _PLAIN_MODES and "transparency" not in image.info and upright and still


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the size of an opened file once it is turned as its EXIF says; only headers are read."""
    # A PNG without such tags in its header would be decoded whole to look for them at the end.
    tags = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")
    has_tags = image.format != "PNG" or any(tag in image.info for tag in tags)
    # Pillow turns the size of a TIFF when it opens it.
    turned = has_tags and image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        return decode_image(data, name=name)
    except InputImageError:
        raise
    except GenerationError as error:
        raise InputImageError(str(error)) from error


def _is_drawn_otherwise(image: Image.Image, changes: Image.Image) -> bool:
    """Whether the visible pixels are a black-and-white drawing that contradicts the alpha channel; a photo is not."""
    visible = np.asarray(image.getchannel("A")) > 0
    light = np.asarray(image.convert("RGB").convert("L"))[visible]
    if not light.size:
        return False
    white, black = light > 247, light < _DARK
    drawn = bool(white.any() and black.any() and (white | black).mean() >= _MASK_LIKE)
    return drawn and bool(np.any(white & (np.asarray(changes)[visible] < 128)))


def _brightest(mask: Image.Image) -> int:
    return cast(tuple[int, int], mask.getextrema())[1]
