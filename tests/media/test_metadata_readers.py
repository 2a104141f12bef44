"""Other people's readers see what avbatch wrote: exiftool, an A1111-style reader, and A1111's own way of reading."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sd_parsers import ParserManager

from abstractvision_batch.media.images import ImageFormat, encode_image, to_rgb_array
from abstractvision_batch.media.metadata.embed import embed_generation
from abstractvision_batch.media.metadata.payload import describe_generation
from abstractvision_batch.media.video import encode_video

EXIFTOOL = shutil.which("exiftool")
PROMPT = 'a red fox 🦊, лиса: "in snow"\nsecond line'
ASKED: dict[str, Any] = {
    "task": "image_to_image",
    "model": "some/model",
    "backend": "diffusers",
    "prompt": PROMPT,
    "negative_prompt": "blurry: very, ugly",
    "seed": 7,
    "steps": 30,
    "guidance_scale": 5.0,
    "strength": 0.6,
}
#: Where each format has the text that A1111 writes.
TEXT_TAG = {"png": "Parameters", "jpeg": "UserComment", "webp": "UserComment", "mp4": "Comment"}
IMAGES: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")


def made(format: str) -> bytes:
    image = Image.linear_gradient("L").resize((48, 32)).convert("RGB")
    plain = (
        encode_video([to_rgb_array(image)] * 3, fps=3)
        if format == "mp4"
        else encode_image(image, next(one for one in IMAGES if one == format))
    )
    described = describe_generation(ASKED, {"scheduler": "DDIMScheduler"}, width=48, height=32)
    return embed_generation(plain, described).data


@pytest.mark.skipif(EXIFTOOL is None, reason="exiftool is not installed (apt-get install libimage-exiftool-perl)")
@pytest.mark.parametrize("format", TEXT_TAG)
def test_exiftool_shows_the_parameters_our_json_and_the_marking(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{format}"
    path.write_bytes(made(format))

    done = subprocess.run([str(EXIFTOOL), "-json", str(path)], capture_output=True, check=True, encoding="utf-8")

    (shown,) = json.loads(done.stdout)
    assert shown[TEXT_TAG[format]].startswith(f"{PROMPT}\nNegative prompt: blurry: very, ugly\nSteps: 30, Sampler: ")
    assert json.loads(shown["Avbatch"])["prompt"] == PROMPT
    assert shown["DigitalSourceType"] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    )
    assert (shown["AISystemUsed"], shown["AIPromptInformation"]) == ("some/model", PROMPT)
    if format == "mp4":
        assert (shown["Title"], shown["Description"]) == (PROMPT.replace("\n", " "), PROMPT)
    assert shown.keys().isdisjoint({"Error", "Warning"})


@pytest.mark.parametrize("format", IMAGES)
def test_an_a1111_style_reader_finds_prompts_model_and_sampler(format: str) -> None:
    found = ParserManager().parse(io.BytesIO(made(format)))

    assert found is not None
    (sampler,) = found.samplers
    assert [prompt.value for prompt in sampler.prompts] == [PROMPT]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry: very, ugly"]
    assert sampler.model is not None and sampler.model.name == "some/model"
    assert (sampler.name, sampler.parameters) == ("DDIMScheduler", {"steps": "30", "cfg_scale": "5", "seed": "7"})
    assert found.metadata["Size"] == "48x32"
    assert found.metadata["Denoising strength"] == "0.6"


@pytest.mark.parametrize("format", IMAGES)
def test_the_web_uis_own_way_of_reading_finds_every_parameter(format: str) -> None:
    """It takes the last line's pairs by a regular expression, and the UserComment as big-endian UTF-16."""
    with Image.open(io.BytesIO(made(format))) as image:
        if format == "png":
            text = image.info["parameters"]
        else:
            text = image.getexif().get_ifd(0x8769)[0x9286].removeprefix(b"UNICODE\x00").decode("utf-16-be")
    *lines, last = text.strip().split("\n")
    pairs = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))

    assert lines == [*PROMPT.split("\n"), "Negative prompt: blurry: very, ugly"]
    assert (
        pairs.items()
        >= {
            "Steps": "30",
            "Sampler": "DDIMScheduler",
            "CFG scale": "5",
            "Seed": "7",
            "Size": "48x32",
            "Model": "some/model",
            "Denoising strength": "0.6",
        }.items()
    )
