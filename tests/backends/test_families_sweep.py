"""The sweep: models of many families, without a card, by path, each task of each in a batch of two.

`pytest -m slow -rA` on this file prints the table. A family that fails has its reason here, and a test that fails when
the reason no longer holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.base_backend import BatchItem, VisionBackend
from abstractvision_batch.backends.table import create_backend, derive_card, load_section_class
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
    VisionRequest,
)
from tests.support.more_families import MORE, SAME_WEIGHTS, name_class
from tests.support.tiny_diffusers import gray
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_models import (
    make_flux,
    make_qwen_image,
    make_sd,
    make_sdxl,
    make_svd,
    make_wan,
    make_wan_image_to_video,
    save,
)

pytestmark = [pytest.mark.model, pytest.mark.slow]

BUILT: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in FAMILIES.items() if name not in SAME_WEIGHTS},
    **MORE,
    "FluxPipeline": make_flux,
    "QwenImagePipeline": make_qwen_image,
    "StableDiffusionPipeline": make_sd,
    "StableDiffusionXLPipeline": make_sdxl,
    "StableVideoDiffusionPipeline": make_svd,
    "WanImageToVideoPipeline": make_wan_image_to_video,
    "WanPipeline": make_wan,
}
CLASSES = sorted({*BUILT, *SAME_WEIGHTS})
#: Why a class does not work: part of the message.
_GUIDANCE = "'FrozenDict' object has no attribute 'guidance_embeds'"  # Diffusers 0.42.1 reads it of a Chroma model
FAILS: dict[str, str] = {
    "ChromaImg2ImgPipeline": _GUIDANCE,
    "ChromaInpaintPipeline": _GUIDANCE,
    "ChromaPipeline": _GUIDANCE,
    "CogVideoXVideoToVideoPipeline": "does none of the tasks",  # takes a video
    "StableDiffusionAttendAndExcitePipeline": "does none of the tasks",  # takes indices of tokens
    "StableDiffusionLDM3DPipeline": "answered with neither pictures nor frames",  # pictures with their depth
    "WanVideoToVideoPipeline": "does none of the tasks",  # takes a video
}
#: Numbers of frames that are not the smallest that the card allows.
FRAMES = {"CogVideoX": 9, "Helios": 5, "Latte": 3}
#: What the tiny encoders of a family read.
EXTRA: dict[str, dict[str, Any]] = {
    "Flux2Klein": {"text_encoder_out_layers": [0, 1], "max_sequence_length": 32},
    "Helios": {"num_latent_frames_per_chunk": 2, "max_sequence_length": 16},
    "LTX": {"max_sequence_length": 16},
    "PixArt": {"max_sequence_length": 16, "use_resolution_binning": False},
    "SkyReels": {"max_sequence_length": 16},
    "Wan": {"max_sequence_length": 16},
}


def make_folder(name: str, root: Path) -> Path:
    base = SAME_WEIGHTS.get(name, name)
    folder = root / base
    if not folder.is_dir():
        save(BUILT[base], folder)
    return folder if base == name else name_class(folder, root / name, name)


def try_family(folder: Path) -> dict[str, str]:
    """Return how each kind of request ended: `works`, or the message of what failed; under `` what all failed for."""
    section = load_section_class("diffusers").model_validate({"kind": "diffusers", "device": "cpu"})
    section = section.at_path(str(folder))
    try:
        card = derive_card(section, model=str(folder))
    except AbstractVisionError as error:
        return {"": str(error)}
    assert card is not None
    with create_backend(section, card=card, model=str(folder)) as backend:
        return {kind: _try(backend, kind, card, folder.name) for kind in card.backends["diffusers"]["pipelines"]}


def _try(backend: VisionBackend, kind: str, card: ModelCard, name: str) -> str:
    try:
        items = backend.generate_batch([_request(kind, seed, card, name) for seed in (1, 2)])
    except AbstractVisionError as error:
        return str(error)
    return next((said for item in items if (said := _fault(item, kind)) is not None), "works")


def _fault(item: BatchItem, kind: str) -> str | None:
    if isinstance(item, GeneratedAsset):
        right = item.media_type == ("video" if kind.endswith("video") else "image")
        return None if right else f"made a {item.media_type}"
    return str(item)


def _request(kind: str, seed: int, card: ModelCard, name: str) -> VisionRequest:
    extra = next((given for start, given in EXTRA.items() if name.startswith(start)), {})
    params = card.tasks["image_to_image" if kind == "inpaint" else kind].params  # type: ignore[index]
    steps = 4 if "strength" in params else 2
    side: dict[str, Any] = {"width": 64, "height": 64} if "width" in params and kind.startswith("text") else {}
    prompt = "" if "prompt" not in params or not params["prompt"].supported else f"a fox {seed}"
    if kind == "text_to_image":
        return ImageGenerationRequest(prompt, **side, steps=steps, seed=seed, extra=extra)
    if kind in ("image_to_image", "inpaint"):
        mask = gray() if kind == "inpaint" else None
        return ImageEditRequest(prompt, gray(), mask=mask, steps=steps, seed=seed, extra=extra)
    rule = params["num_frames"]
    usual = rule.multiple_of + rule.remainder if rule.multiple_of else 5
    frames = next((count for start, count in FRAMES.items() if name.startswith(start)), usual)
    if kind == "text_to_video":
        return VideoGenerationRequest(prompt, **side, num_frames=frames, steps=2, seed=seed, extra=extra)
    return ImageToVideoRequest(gray(), prompt, num_frames=frames, steps=2, seed=seed, extra=extra)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_a_family_works_without_a_card_or_fails_for_the_reason_that_is_known(root: Path, name: str) -> None:
    ended = try_family(make_folder(name, root))

    logging.getLogger(__name__).warning(
        "| %s | %s |", name, "; ".join(f"{kind}: {said}" for kind, said in ended.items())
    )
    failed = {kind: said for kind, said in ended.items() if said != "works"}
    if name in FAILS:
        assert any(FAILS[name] in said for said in failed.values()), ended
    else:
        assert not failed
