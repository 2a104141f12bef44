"""Images as bytes and as pixels: encode, decode, and a hash of the pixels that no lossless codec changes.

Not covered: which format a run wants, videos (`video`), sizes of unknown bytes (`probe`).
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from abstractvision_batch.errors import GenerationError

ImageFormat = Literal["png", "jpeg", "webp"]

MIME_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "mp4": "video/mp4"}
EXTENSIONS: dict[str, str] = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/x-portable-pixmap": ".ppm",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}

#: Level 6 takes six times the CPU for a sixth less bytes (1024² photo: 555 ms against 87 ms).
PNG_COMPRESS_LEVEL = 1

#: TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

Rgb = npt.NDArray[np.uint8]


def encode_image(
    image: Image.Image, format: ImageFormat, *, jpeg_quality: int = 95, png_level: int = PNG_COMPRESS_LEVEL
) -> bytes:
    """Encode `image`; PNG and WebP keep every pixel, JPEG drops transparency."""
    normal = _normalise_mode(image)
    out = io.BytesIO()
    if format == "png":
        normal.save(out, "PNG", compress_level=png_level)
    elif format == "webp":
        # exact: without it the colour under fully transparent pixels is lost, and the pixel hash with it
        normal.save(out, "WEBP", lossless=True, quality=0, method=0, exact=True)
    else:
        normal.convert("RGB").save(out, "JPEG", quality=jpeg_quality, subsampling=0)
    return out.getvalue()


def decode_image(data: bytes, *, name: str = "image") -> Image.Image:
    """Decode an image file, turned upright by its EXIF orientation, as RGB or RGBA of 8 bits a channel.

    More bits are scaled so that the format's white stays white.

    Args:
        data: An encoded image.
        name: What the error message calls it.

    Raises:
        GenerationError: the bytes are no readable image, decode to more pixels than Pillow allows, or have values of
            which nothing says how bright they are.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse_misread(image)
            image.load()
            return _normalise_mode(ImageOps.exif_transpose(_to_8_bits(image)))
    except _NoKnownWhiteError as exc:
        raise GenerationError(f"{name}: {exc} (save it with 8 or 16 bits)") from exc
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        said = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", _one_line(exc))
        raise GenerationError(f"{name}: {len(data)} bytes are not a readable image ({said})") from exc


#: Tags of TIFF: bits of each channel, whether each channel has a plane of its own (2), signed whole numbers (2).
_BITS, _PLANES, _SAMPLES = 258, 284, 339


def _refuse_misread(image: Image.Image) -> None:
    """Refuse what Pillow opens and reads as something else: planes of more than 8 bits, signed values, FITS.

    Raises:
        _NoKnownWhiteError: it is one of those.
    """
    if image.format == "FITS":
        raise _NoKnownWhiteError("is FITS, whose values are measurements")
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags is None:
        return
    bits, samples = tags.get(_BITS, (8,)), tags.get(_SAMPLES, (1,))
    if tags.get(_PLANES) == 2 and max(bits, default=8) > 8:
        raise _NoKnownWhiteError("has a plane of more than 8 bits for each channel")
    if 2 in samples and max(bits, default=8) <= 16:  # of 32 bits the range is named
        raise _NoKnownWhiteError("has signed values")


def pixel_sha256(image: Image.Image) -> str:
    """Hash size, channels and pixels: equal for PNG, lossless WebP and raw pixels of one picture."""
    normal = _normalise_mode(image)
    digest = hashlib.sha256(f"{normal.mode} {normal.width}x{normal.height}\n".encode())
    digest.update(normal.tobytes())
    return digest.hexdigest()


def raw_rgb(array: Rgb) -> bytes:
    """Return (height, width, 3) uint8 pixels as a binary PPM file: no codec, no cost."""
    height, width, _ = array.shape
    return b"P6\n%d %d\n255\n" % (width, height) + np.ascontiguousarray(array).tobytes()


def to_rgb_array(image: Image.Image) -> Rgb:
    """Return the (height, width, 3) uint8 pixels of `image`, transparency flattened onto white."""
    if "A" in image.getbands():
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


class _NoKnownWhiteError(ValueError):
    """Nothing says how bright the values of an image are."""


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return `image` with 8 bits a channel; Pillow's own conversion clips what is above 255.

    Raises:
        _NoKnownWhiteError: nothing says which value is white.
    """
    if image.mode == "F":
        floats = np.asarray(image)
        low, high = float(floats.min()), float(floats.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise _NoKnownWhiteError(f"its values are floats of {low:g} to {high:g}, not of 0 to 1")
        return _with_tags(np.rint(floats * 255).astype(np.uint8), image)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    whole = np.asarray(image).astype(np.int64)
    white = 65535
    tags = getattr(image, "tag_v2", None)  # TIFF
    if tags is not None and image.mode == "I":
        raise _NoKnownWhiteError(
            f"its values are whole numbers of {whole.min()} to {whole.max()} in 32 bits, and nothing says "
            "which is white"
        )
    if tags is not None:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        white = (1 << int(bits)) - 1
    if whole.min() < 0 or whole.max() > white:
        raise _NoKnownWhiteError(f"its values are whole numbers of {whole.min()} to {whole.max()}, not of 0 to {white}")
    scaled = ((whole * 255 + white // 2) // white).astype(np.uint8)
    if tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(whole == transparent, 0, 255).astype(np.uint8)
        return _with_tags(np.dstack([scaled, scaled, scaled, alpha]), image)
    return _with_tags(scaled, image)


def _with_tags(pixels: Rgb, source: Image.Image) -> Image.Image:
    """Return an image of `pixels` that still has the orientation of `source`."""
    image = Image.fromarray(pixels)
    if (orientation := source.getexif().get(ExifTags.Base.Orientation)) is not None:
        image.getexif()[ExifTags.Base.Orientation] = orientation
    return image


def _normalise_mode(image: Image.Image) -> Image.Image:
    """Return RGBA where some pixel is transparent, else RGB: WebP drops an alpha channel that says nothing."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        rgba = image.convert("RGBA")
        low, _ = _extrema(rgba.getchannel("A"))
        return rgba if low < 255 else rgba.convert("RGB")
    return image.convert("RGB")


def _extrema(channel: Image.Image) -> tuple[int, int]:
    extrema: Any = channel.getextrema()  # typed for every mode at once; an 8-bit channel has two integers
    return int(extrema[0]), int(extrema[1])


def _one_line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
