"""Input pictures and masks: one rule for what a file means, whatever its mode, depth and transparency."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from abstractvision_batch.errors import InputImageError
from abstractvision_batch.media.inputs import (
    fit_mask,
    fit_picture,
    prepare_mask,
    prepare_picture,
    read_mask,
    read_picture,
    upright_size,
)
from abstractvision_batch.types import Fit
from tests.support.circles import draw_circle, measure_circle

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
BYTES = np.rint(np.linspace(0, 255, 256)).reshape(16, 16)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def level(data: bytes) -> tuple[int, int, int]:
    """The colour of a picture of one colour."""
    pixels = np.asarray(read_picture(data)).reshape(-1, 3)
    assert (pixels == pixels[0]).all()
    return int(pixels[0][0]), int(pixels[0][1]), int(pixels[0][2])


def hole(outside: tuple[int, ...], inside: tuple[int, ...], mode: str = "RGBA") -> Image.Image:
    image = Image.new(mode, (8, 8), outside)
    image.paste(inside, (2, 2, 6, 6))
    return image


MIDDLE = np.zeros((8, 8), np.uint8)
MIDDLE[2:6, 2:6] = 255


# depth


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(RAMP)),
        encode(Image.fromarray(RAMP), "TIFF"),
        encode(Image.fromarray(65535 - RAMP), "TIFF", tiffinfo={262: 0}),
        b"P5\n16 16\n65535\n" + RAMP.astype(">u2").tobytes(),
        encode(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    ],
    ids=["png", "tiff", "tiff, white is zero", "pgm", "float tiff of 0 to 1"],
)
def test_more_than_8_bits_are_scaled_and_not_clipped(data: bytes) -> None:
    pixels = np.asarray(read_picture(data)).astype(int)

    assert np.abs(pixels - BYTES[:, :, None]).max() == 0
    assert np.abs(np.asarray(read_mask(data)).astype(int) - BYTES).max() == 0


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ((RAMP / 257).astype(np.float32), "its values are floats of 0 to 255, not of 0 to 1"),
        (np.full((4, 4), np.nan, np.float32), "its values are floats of nan to nan"),
        (np.full((4, 4), np.inf, np.float32), "its values are floats of inf to inf"),
        (RAMP.astype(np.int32), "its values are whole numbers of 0 to 65535 in 32 bits"),
        (RAMP.astype(np.int32) - 100, "its values are whole numbers of -100 to 65435 in 32 bits"),
    ],
)
def test_values_without_a_known_white_are_refused_in_one_line(pixels: Any, said: str) -> None:
    with pytest.raises(InputImageError) as refused:
        read_picture(encode(Image.fromarray(pixels), "TIFF"))

    assert str(refused.value).startswith(f"input image: {said}")
    assert "save it with 8 or 16 bits" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (4, 4), 77), "PNG", (77, 77, 77)),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF", (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "TIFF", (0, 0, 0)),
        (Image.new("RGB", (4, 4), (1, 2, 3)).quantize(2), "PNG", (1, 2, 3)),
        (Image.new("RGB", (4, 4), (1, 2, 3)).quantize(2), "GIF", (1, 2, 3)),
        (Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF", (255, 255, 255)),
    ],
    ids=["1 bit", "grey", "CMYK white", "CMYK black", "palette", "GIF", "LAB"],
)
def test_other_modes_are_converted(image: Image.Image, format: str, expected: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(level(encode(image, format)), expected)).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_exif_turns_pictures_of_every_depth(mode: str, format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6

    assert read_picture(encode(Image.new(mode, (8, 4)), format, exif=exif)).size == (4, 8)


# transparency


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)),
        Image.new("LA", (4, 4), (10, 0)),
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)),
    ],
    ids=["hidden red", "hidden grey", "hidden black"],
)
def test_the_hidden_colour_of_transparent_pixels_is_white(image: Image.Image) -> None:
    assert level(encode(image)) == (255, 255, 255)
    assert level(encode(image, "TIFF")) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
def test_a_colour_that_stands_for_transparency_is_white(mode: str) -> None:
    image = Image.new("RGB", (4, 4), "black").convert(mode)

    assert level(encode(image, transparency=(0, 0, 0) if mode == "RGB" else 0)) == (255, 255, 255)


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert level(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))) == (127, 127, 127)


# masks


@pytest.mark.parametrize(
    "image",
    [
        hole((0, 0, 0, 255), (0, 0, 0, 0)),
        hole((255, 255, 255, 255), (255, 255, 255, 0)),
        hole((255, 255, 255, 255), (0, 0, 0, 0)),
        hole((0, 0, 0, 255), (255, 255, 255, 0)),
        hole((0, 255), (0, 0), "LA"),
        hole((0, 0, 0), (255, 255, 255), "RGB"),
        Image.fromarray(MIDDLE),
        Image.fromarray(MIDDLE).convert("1"),
        Image.fromarray(MIDDLE).convert("RGBA"),
        Image.fromarray(MIDDLE).convert("P"),
        Image.fromarray(MIDDLE.astype(np.uint16) * 257),
    ],
    ids=[
        "OpenAI's: black", "white", "a hole", "white hole", "LA", "RGB", "grey", "1 bit", "opaque RGBA", "palette",
        "16 bits",
    ],
)  # fmt: skip
def test_a_mask_says_the_same_by_transparency_and_by_white(image: Image.Image) -> None:
    assert np.array_equal(np.asarray(read_mask(encode(image))), MIDDLE)


def test_a_photo_with_an_erased_part_is_a_mask_of_that_part() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.dstack([noise, 255 - MIDDLE])

    assert np.array_equal(np.asarray(read_mask(encode(Image.fromarray(image)))), MIDDLE)


def test_a_mask_that_says_two_things_is_refused() -> None:
    image = hole((0, 0, 0, 255), (255, 255, 255, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 1))

    with pytest.raises(InputImageError, match="drawn in black and white and has transparent parts too"):
        read_mask(encode(image))


def test_soft_masks_stay_soft() -> None:
    soft = Image.new("RGBA", (4, 4), (0, 0, 0, 155))

    assert read_mask(encode(soft)).getpixel((0, 0)) == 100
    assert read_mask(encode(Image.new("L", (4, 4), 100))).getpixel((0, 0)) == 100


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("L", (4, 4), 0), "black everywhere"),
        (Image.new("RGB", (4, 4)), "black everywhere"),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 255)), "black everywhere"),
        (Image.new("1", (4, 4), 0), "black everywhere"),
        (Image.fromarray((MIDDLE > 0).astype(np.uint8)), "its brightest pixel is 1 of 255"),
    ],
)
def test_a_mask_that_changes_nothing_is_said(image: Image.Image, said: str) -> None:
    with pytest.raises(InputImageError, match=f"mask: it changes nothing: .*{said}"):
        read_mask(encode(image))


def test_a_mask_that_is_no_image_is_said() -> None:
    with pytest.raises(InputImageError, match="mask: 3 bytes are not a readable image"):
        read_mask(b"abc")


# fit


@pytest.mark.parametrize(
    ("fit", "size"), [("crop", (64, 64)), ("pad", (64, 64)), ("crop", (64, 32)), ("pad", (32, 64)), ("pad", (128, 32))]
)
def test_a_circle_stays_round_by_crop_and_pad(fit: Fit, size: tuple[int, int]) -> None:
    fitted = fit_picture(draw_circle((128, 64)), size, fit)

    width, height = measure_circle(np.asarray(fitted))
    assert fitted.size == size
    assert abs(width - height) <= 1


def test_a_circle_becomes_an_ellipse_by_stretch() -> None:
    width, height = measure_circle(np.asarray(fit_picture(draw_circle((128, 64)), (64, 64), "stretch")))

    assert height == pytest.approx(2 * width, abs=1)


def test_a_mask_is_fitted_as_its_picture_is() -> None:
    picture = draw_circle((128, 64))
    mask = picture.getchannel("R")
    fits: tuple[Fit, ...] = ("crop", "pad", "stretch", "error")
    for fit in fits:
        fitted = np.asarray(fit_picture(picture, (64, 64), fit))
        red = (fitted[:, :, 0] > 127) & (fitted[:, :, 1] < 127)
        changes = np.asarray(fit_mask(mask, (64, 64), fit)) > 127
        assert (red != changes).mean() < 0.02


def test_what_padding_adds_is_white_and_does_not_change() -> None:
    assert fit_picture(draw_circle((128, 64)), (64, 64), "pad").getpixel((0, 0)) == (255, 255, 255)
    assert fit_mask(Image.new("L", (128, 64), 255), (64, 64), "pad").getpixel((0, 0)) == 0


# prepared


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_every_backend_reads_alike_is_passed_on_as_it_is(format: str) -> None:
    data = encode(draw_circle((64, 32)), format)

    assert prepare_picture(data, None, "error") is data
    assert prepare_picture(data, (64, 32), "crop") is data
    assert prepare_picture(data, (32, 32), "crop") is not data


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))),
        encode(Image.fromarray(RAMP)),
        encode(Image.new("CMYK", (4, 4)), "JPEG"),
        encode(Image.new("RGB", (4, 4)), "TIFF"),
        encode(Image.new("L", (4, 4)), transparency=0),
    ],
    ids=["transparent", "16 bits", "CMYK", "TIFF", "transparent colour"],
)
def test_any_other_file_is_passed_on_as_a_plain_one(data: bytes) -> None:
    prepared = prepare_picture(data, None, "error")

    with Image.open(io.BytesIO(prepared)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(read_picture(prepared)), np.asarray(read_picture(data)))


def test_an_orientation_that_planning_did_not_see_is_said() -> None:
    with pytest.raises(InputImageError, match="its header says 4x8, and its pixels are 8x4 upright"):
        prepare_picture(encode(Image.new("RGB", (8, 4))), None, "error", planned=(4, 8))


def test_a_prepared_mask_has_one_channel_in_which_white_changes() -> None:
    prepared = prepare_mask(encode(hole((0, 0, 0, 255), (0, 0, 0, 0))), (8, 8), "error")

    with Image.open(io.BytesIO(prepared)) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), MIDDLE)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_tiff_has_the_size_that_it_is_read_with(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = io.BytesIO()
    Image.new("RGB", (32, 16), "teal").save(data, "TIFF", exif=exif)

    with Image.open(io.BytesIO(data.getvalue())) as opened:
        assert upright_size(opened) == read_picture(data.getvalue(), name="a TIFF").size == (16, 32)


def test_signed_values_are_refused_and_not_wrapped() -> None:
    data = io.BytesIO()
    Image.new("L", (8, 8), 200).save(data, "TIFF", tiffinfo={339: 2})

    with pytest.raises(InputImageError, match="has signed values"):
        read_picture(data.getvalue(), name="a TIFF")
