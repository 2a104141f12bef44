"""How tests ask tiny Diffusers models for pictures, and compare what came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from abstractvision_batch.backends import HuggingFaceDiffusersBackendConfig, HuggingFaceDiffusersVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.media.images import Rgb, decode_image, encode_image, to_rgb_array
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest


def make_backend(path: Path, **settings: Any) -> HuggingFaceDiffusersVisionBackend:
    return HuggingFaceDiffusersVisionBackend(HuggingFaceDiffusersBackendConfig("test/tiny", path=str(path), **settings))


def text_request(seed: int = 1, **fields: Any) -> ImageGenerationRequest:
    settings: dict[str, Any] = {"prompt": f"a fox {seed}", "width": 64, "height": 64, "steps": 2, "seed": seed}
    return ImageGenerationRequest(**(settings | fields))


def gray(width: int = 64, height: int = 64) -> bytes:
    return encode_image(Image.linear_gradient("L").resize((width, height)).convert("RGB"), "png")


def pixels(item: BatchItem) -> Rgb:
    assert isinstance(item, GeneratedAsset), item
    return to_rgb_array(decode_image(item.data))


def metadata(item: BatchItem) -> dict[str, Any]:
    assert isinstance(item, GeneratedAsset), item
    return item.metadata


def levels_apart(first: BatchItem, second: BatchItem) -> int:
    return int(np.abs(pixels(first).astype(int) - pixels(second)).max())
