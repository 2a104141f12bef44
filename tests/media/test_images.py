from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.images import (
    ImageFormat,
    decode_image,
    encode_image,
    pixel_sha256,
    raw_rgb,
    to_rgb_array,
)


def random_image(mode: str = "RGB", size: tuple[int, int] = (37, 21)) -> Image.Image:
    channels = len(mode)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(pixels, mode)


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_codecs_keep_the_pixel_hash(format: ImageFormat, mode: str) -> None:
    image = random_image(mode)

    assert pixel_sha256(decode_image(encode_image(image, format))) == pixel_sha256(image)


def test_an_opaque_alpha_channel_does_not_change_the_pixel_hash() -> None:
    image = random_image()

    assert pixel_sha256(image.convert("RGBA")) == pixel_sha256(image)


def test_raw_pixels_have_the_pixel_hash_of_their_png() -> None:
    image = random_image()

    assert pixel_sha256(decode_image(raw_rgb(np.asarray(image)))) == pixel_sha256(image)


def test_the_same_bytes_in_another_shape_have_another_pixel_hash() -> None:
    image = random_image(size=(8, 4))

    assert pixel_sha256(Image.frombytes("RGB", (4, 8), image.tobytes())) != pixel_sha256(image)


def test_encoding_twice_gives_the_same_bytes() -> None:
    formats: tuple[ImageFormat, ...] = ("png", "webp", "jpeg")
    for format in formats:
        assert encode_image(random_image(), format) == encode_image(random_image(), format)


def test_jpeg_quality_is_honoured() -> None:
    assert len(encode_image(random_image(), "jpeg", jpeg_quality=20)) < len(encode_image(random_image(), "jpeg"))


def test_a_photo_is_turned_upright_when_decoded() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    out = io.BytesIO()
    Image.new("RGB", (30, 10), "red").save(out, "JPEG", exif=exif)

    assert decode_image(out.getvalue()).size == (10, 30)


@pytest.mark.parametrize("data", [b"", b"not an image", encode_image(random_image(), "png")[:60]])
def test_unreadable_bytes_are_one_error_that_names_the_image(data: bytes) -> None:
    with pytest.raises(GenerationError, match=r"^mask: \d+ bytes are not a readable image"):
        decode_image(data, name="mask")


def test_transparency_is_flattened_onto_white() -> None:
    assert to_rgb_array(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).tolist() == [[[255, 255, 255]]]
