"""What made a file, written into it and read again: the same bytes each time, and not a pixel changed."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.images import ImageFormat, decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.metadata.embed import embed_generation, read_parameters
from abstractvision_batch.media.metadata.infotext import parse_infotext, write_infotext
from abstractvision_batch.media.metadata.payload import describe_generation
from abstractvision_batch.media.probe import sniff_mime_type
from abstractvision_batch.media.video import encode_video, video_pixel_sha256
from abstractvision_batch.version import __version__

FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")
ASKED: dict[str, Any] = {
    "request_id": "abc",
    "run": "night",
    "task": "text_to_image",
    "model": "some/model",
    "backend": "diffusers",
    "prompt": "a red fox",
    "negative_prompt": "blurry",
    "seed": 7,
    "steps": 30,
    "guidance_scale": 5.0,
}
PROMPTS = {
    "plain": "a red fox",
    "latin": "une élève à l'école, Ærø",
    "lines": "a fox\nin snow\r\n\n  at night  ",
    "colons": 'Steps: 9, "quoted: text", Seed: 1, Size: 3x4, <lora:x:1>',
    "emoji": "🦊 a fox 👨‍👩‍👧‍👦 and 🇺🇳",
    "scripts": "лиса в снегу, 雪の中の狐, ثعلب في الثلج, हिम में लोमड़ी",
    "negative": "a fox\nNegative prompt: is what it says",
    "markup": "a <b>fox</b> & ]]> <!DOCTYPE x> &amp; 'x'",
    "controls": "a\x00b\x1b[0m\x85\u2028\ufffe\uffff c",
    "long": "a fox, " * 600,
    "long scripts": "狐🦊" * 1300,
    "empty": "",
}


def picture(format: ImageFormat = "png", mode: str = "RGB", size: tuple[int, int] = (37, 21)) -> bytes:
    shape = (size[1], size[0], len(mode))
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    return encode_image(Image.fromarray(pixels, mode), format)


def video(width: int = 48, frames: int = 9) -> bytes:
    ramp = np.arange(width, dtype=np.uint8)[None, :, None] * np.ones((32, 1, 3), np.uint8)
    return encode_video([(ramp + 5 * number).astype(np.uint8) for number in range(frames)], fps=8)


def described(**asked: Any) -> dict[str, Any]:
    return describe_generation({**ASKED, **asked}, {}, width=37, height=21)


FILES: dict[str, Callable[[], bytes]] = {
    "png": lambda: picture("png"),
    "png with alpha": lambda: picture("png", "RGBA"),
    "jpeg": lambda: picture("jpeg"),
    "webp": lambda: picture("webp"),
    "webp with alpha": lambda: picture("webp", "RGBA"),
    "mp4": video,
}


def pixels_of(data: bytes) -> str:
    return video_pixel_sha256(data) if sniff_mime_type(data) == "video/mp4" else pixel_sha256(decode_image(data))


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_is_read_again_and_no_pixel_changes(name: str) -> None:
    plain = FILES[name]()

    embedded = embed_generation(plain, described())

    assert embedded.left_out == ()
    assert pixels_of(embedded.data) == pixels_of(plain)
    assert sniff_mime_type(embedded.data) == sniff_mime_type(plain)
    read = read_parameters(embedded.data)
    assert read.pop("digital_source_type").endswith("/trainedAlgorithmicMedia")
    assert read == {**ASKED, "width": 37, "height": 21, "avbatch": __version__}


@pytest.mark.parametrize("name", FILES)
def test_the_same_file_and_generation_give_the_same_bytes(name: str) -> None:
    first, second = (embed_generation(FILES[name](), described()).data for _ in range(2))

    assert first == second


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "mp4"])
def test_every_prompt_survives(name: str, prompt: str) -> None:
    embedded = embed_generation(FILES[name](), described(prompt=prompt, negative_prompt=prompt or None))

    assert embedded.left_out == ()
    assert read_parameters(embedded.data)["prompt"] == prompt
    assert read_parameters(embedded.data).get("negative_prompt", "") == prompt


@given(prompt=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_in_the_format_with_the_strictest_rules(prompt: str) -> None:
    """XMP is XML, which has no word for most control characters."""
    embedded = embed_generation(picture("jpeg", size=(4, 4)), described(prompt=prompt))

    assert read_parameters(embedded.data)["prompt"] == prompt


def test_the_text_is_what_the_web_ui_writes() -> None:
    text = write_infotext(described(strength=0.75, scheduler="DDIMScheduler"))

    assert text == (
        "a red fox\nNegative prompt: blurry\n"
        "Steps: 30, Sampler: DDIMScheduler, CFG scale: 5, Seed: 7, Size: 37x21, Model: some/model, "
        f"Denoising strength: 0.75, Version: avbatch {__version__}"
    )


def test_a_value_with_a_comma_or_a_colon_is_quoted() -> None:
    text = write_infotext(described(model="C:\\models, new"))

    assert 'Model: "C:\\\\models, new", ' in text
    assert parse_infotext(text)["model"] == "C:\\models, new"


def test_another_tools_text_is_read_under_our_names_and_the_rest_under_its_own() -> None:
    text = (
        "first line,\nsecond line\nNegative prompt: bad,\nworse\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, "
        'Model hash: 45dee52b, Lora hashes: "a: 1, b: 2", Denoising strength: 0.4'
    )

    assert parse_infotext(text) == {
        "prompt": "first line,\nsecond line",
        "negative_prompt": "bad,\nworse",
        "steps": 20,
        "sampler": "Euler a",
        "scheduler": "Karras",
        "guidance_scale": 7.5,
        "seed": 965400086,
        "width": 512,
        "height": 768,
        "Model hash": "45dee52b",
        "Lora hashes": "a: 1, b: 2",
        "strength": 0.4,
    }


@pytest.mark.parametrize("text", ["", "a prompt alone", "two\nlines", "Negative prompt: all", "Steps: 3"])
def test_a_text_without_parameters_is_a_prompt(text: str) -> None:
    found = parse_infotext(text)

    assert found.keys() <= {"prompt", "negative_prompt"}
    assert "".join(found.values()) == text.removeprefix("Negative prompt: ")


@pytest.mark.parametrize(
    ("asked", "term"),
    [
        ({}, "trainedAlgorithmicMedia"),
        ({"task": "text_to_video"}, "trainedAlgorithmicMedia"),
        ({"task": "image_to_video", "input_image": "a.png"}, "trainedAlgorithmicMedia"),
        ({"task": "multi_view_image", "input_image": "a.png"}, "trainedAlgorithmicMedia"),
        ({"task": "image_to_image", "strength": 0.6}, "compositeWithTrainedAlgorithmicMedia"),
        ({"task": "image_to_image"}, "compositeWithTrainedAlgorithmicMedia"),
        ({"task": "image_to_image", "strength": 1.0}, "trainedAlgorithmicMedia"),
        ({"task": "image_to_image", "strength": 1.0, "mask_image": "m.png"}, "compositeWithTrainedAlgorithmicMedia"),
        ({"backend": "procedural"}, "algorithmicMedia"),
    ],
)
def test_the_marking_says_whether_a_model_made_or_changed_it(asked: dict[str, Any], term: str) -> None:
    data = embed_generation(picture(), described(**asked)).data

    assert read_parameters(data)["digital_source_type"] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"


def test_what_the_backend_knows_better_wins_and_what_was_not_sent_is_left_out() -> None:
    metadata = {"seed": None, "not_sent": ["steps", "negative_prompt"], "revised_prompt": "a fox", "attempts": 3}

    found = describe_generation(ASKED, metadata, width=8, height=8)

    assert found.keys().isdisjoint({"seed", "steps", "negative_prompt", "attempts", "not_sent"})
    assert found["revised_prompt"] == "a fox"


def test_places_are_names_and_secrets_are_masked() -> None:
    asked = {
        **ASKED,
        "input_image": "https://me:pw@host/in/photo%20one.png?X-Amz-Signature=sig#x",
        "mask_image": "/home/me/masks/m.png",
        "extra": {"api_key": "k", "deep": [{"hf_token": "k", "clip_skip": 2}], "image": "https://me:pw@host/a.png?k=k"},
    }
    metadata = {"loras": [{"source": "/home/me/x.safetensors", "scale": 1.0}, {"source": "user/repo", "scale": 0.5}]}

    found = describe_generation(asked, metadata, width=8, height=8)

    assert (found["input_image"], found["mask_image"]) == ("photo one.png", "m.png")
    assert found["extra"] == {
        "api_key": "<secret>",
        "deep": [{"hf_token": "<secret>", "clip_skip": 2}],
        "image": "https://host/a.png",
    }
    assert [lora["source"] for lora in found["loras"]] == ["x.safetensors", "user/repo"]


def test_a_text_too_long_for_a_jpeg_is_left_out_and_the_marking_stays() -> None:
    embedded = embed_generation(picture("jpeg"), described(prompt="a" * 70_000))

    assert embedded.left_out == ("EXIF (too long)", "avbatch (too long)")
    assert read_parameters(embedded.data).keys() == {"digital_source_type"}
    assert (
        len(read_parameters(embed_generation(picture("webp"), described(prompt="a" * 70_000)).data)["prompt"]) == 70_000
    )


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a\x01\x00\x01\x00"])
def test_bytes_of_another_kind_come_back_as_they_were_and_cannot_be_read(data: bytes) -> None:
    embedded = embed_generation(data, described())

    assert embedded.data == data
    assert embedded.left_out[0].startswith("all: ")
    with pytest.raises(InvalidOutputError, match="only PNG, JPEG, WebP and MP4"):
        read_parameters(data)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_metadata_says_nothing(name: str) -> None:
    assert read_parameters(FILES[name]()) == {}


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_left_alone_or_refused_and_never_crash(data: st.DataObject) -> None:
    whole = embed_generation(_SMALL[data.draw(st.sampled_from(sorted(_SMALL)))], described()).data
    damaged = bytearray(whole[: data.draw(st.integers(12, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    embedded = embed_generation(bytes(damaged), described())
    assert embedded.data == damaged or not any(note.startswith("all") for note in embedded.left_out)
    with contextlib.suppress(InvalidOutputError):
        read_parameters(bytes(damaged))


_SMALL = {
    "png": picture("png", size=(2, 2)),
    "jpeg": picture("jpeg", size=(2, 2)),
    "webp": picture("webp", size=(2, 2)),
    "mp4": video(width=32, frames=2),
}


def test_pillow_shows_each_part_where_it_belongs() -> None:
    for format in FORMATS:
        with Image.open(io.BytesIO(embed_generation(picture(format), described()).data)) as image:
            if format == "png":
                assert image.info["parameters"].startswith("a red fox\nNegative prompt: blurry\nSteps: 30")
                assert image.info["avbatch"].startswith('{"avbatch": ')
            else:
                comment = image.getexif().get_ifd(0x8769)[0x9286]
                assert comment[:8] == b"UNICODE\x00"
                assert comment[8:].decode("utf-16-be").startswith("a red fox\nNegative prompt: blurry\nSteps: 30")
            assert b"trainedAlgorithmicMedia" in image.info["xmp"]


def test_a_compressed_text_that_would_fill_the_memory_is_not_read() -> None:
    bomb = zlib.compress(b"a" * (20 * 2**20))
    chunk = b"zTXtparameters\x00\x00" + bomb
    plain = picture()
    data = plain[:33] + len(chunk[4:]).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + plain[33:]

    assert len(read_parameters(data)["prompt"]) == 16 * 2**20
