"""One rule for pictures and masks on every backend: what each is given, sends or draws."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.openai_compatible.input_images import read_images, read_mask
from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import prepare_generation
from abstractvision_batch.errors import InputImageError
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.registry.request_check import InvalidRequestError
from abstractvision_batch.types import GeneratedAsset, ImageEditRequest
from abstractvision_batch.vision_manager import VisionManager
from tests.support.circles import draw_circle, measure_circle


def encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def alpha_mask() -> bytes:
    """OpenAI's form: black, and transparent in the middle."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (16, 16, 48, 48))
    return encode(image)


def white_mask() -> bytes:
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (16, 16, 48, 48))
    return encode(image)


def edit(mask: bytes | None, image: bytes | None = None) -> ImageEditRequest:
    image = encode(Image.new("RGB", (64, 64), "navy")) if image is None else image
    return ImageEditRequest("a fox", image, mask, steps=2, seed=1, strength=1.0)


def drawn(request: ImageEditRequest) -> bytes:
    """What the backend without a model makes."""
    return np.asarray(decode_image(ProceduralVisionBackend().edit_image(request).data)).tobytes()


def given_to_sdcpp(request: ImageEditRequest) -> bytes:
    config = StableDiffusionCppBackendConfig(model="model.gguf")
    images = prepare_generation(request, config, LoraFolder(None), side_multiple=64).images
    return b"".join(np.asarray(decode_image(images[name])).tobytes() for name in ("init", "mask"))


def sent_to_a_server(request: ImageEditRequest) -> bytes:
    image, uploads = read_images(request.image, {}, field="image")
    uploads += [] if request.mask is None else [read_mask(request.mask, image, field="mask")]
    return b"".join(Image.open(io.BytesIO(one.content)).convert("RGBA").tobytes() for one in uploads)


EVERY = pytest.mark.parametrize("see", [drawn, given_to_sdcpp, sent_to_a_server])


@EVERY
def test_a_mask_by_alpha_is_the_mask_by_white(see: Any) -> None:
    assert see(edit(alpha_mask())) == see(edit(white_mask()))


@EVERY
def test_a_black_mask_is_refused(see: Any) -> None:
    with pytest.raises(InputImageError, match="mask: it changes nothing: it is black everywhere"):
        see(edit(encode(Image.new("L", (64, 64)))))


@EVERY
def test_a_cut_out_is_on_white(see: Any) -> None:
    hidden = encode(Image.new("RGBA", (64, 64), (255, 0, 0, 0)))

    assert see(edit(white_mask(), hidden)) == see(edit(white_mask(), encode(Image.new("RGB", (64, 64), "white"))))


@EVERY
def test_16_bits_are_scaled(see: Any) -> None:
    deep = encode(Image.fromarray(np.full((64, 64), 32896, np.uint16)))

    assert see(edit(white_mask(), deep)) == see(edit(white_mask(), encode(Image.new("RGB", (64, 64), (128, 128, 128)))))


def test_a_direct_call_fits_pictures_as_a_job_does() -> None:
    circle = encode(draw_circle((128, 64)))
    manager = VisionManager(ProceduralVisionBackend(), model_id="avbatch/procedural", fit="error")

    with pytest.raises(InvalidRequestError, match="image: 128x64 has another aspect than 64x64"):
        manager.edit_image("x", circle, width=64, height=64, strength=0.0)
    manager.fit = "crop"
    cropped = manager.edit_image("x", circle, width=64, height=64, strength=0.0)
    manager.fit = "error"
    one_side = manager.edit_image("x", circle, width=64, strength=0.0)

    for asset, size in ((cropped, (64, 64)), (one_side, (64, 32))):
        assert isinstance(asset, GeneratedAsset)
        image = decode_image(asset.data)
        width, height = measure_circle(np.asarray(image))
        assert image.size == size
        assert abs(width - height) <= 1
