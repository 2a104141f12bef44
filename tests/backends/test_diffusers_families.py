"""Families of models that ask for something of their own: Qwen-Image, Flux Kontext, Stable Video Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.huggingface_diffusers.config import PIPELINE_KINDS
from abstractvision_batch.backends.huggingface_diffusers.families import OUTPUT_SIZES, fits
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.probe import probe
from abstractvision_batch.types import GeneratedAsset, ImageEditRequest, ImageToVideoRequest, MultiAngleRequest
from tests.support.tiny_diffusers import gray, levels_apart, make_backend, metadata, pixels, text_request

pytestmark = pytest.mark.model

#: Kontext scales its input to about a megapixel, unless told not to.
KEEP_SIZE: dict[str, Any] = {"_auto_resize": False, "max_area": 64 * 32}


def test_qwen_image_is_guided_without_a_negative_prompt(tiny_qwen_image: Path) -> None:
    """Left to the pipeline, guidance without a negative prompt does nothing."""
    with make_backend(tiny_qwen_image) as backend:
        requests = [text_request(1, guidance_scale=scale) for scale in (1.0, 4.0)]
        plain, guided, default = backend.generate_batch([*requests, text_request(1)])

    assert levels_apart(plain, guided) > 0
    assert levels_apart(guided, default) == 0
    assert metadata(default)["guidance_scale"] == 4.0


def test_qwen_image_shares_a_pass_and_edits(tiny_qwen_image: Path) -> None:
    card = {"text_to_image": "QwenImagePipeline", "image_to_image": "QwenImageImg2ImgPipeline"}
    edit = ImageEditRequest("a fox", image=gray(64, 32), steps=4, seed=1, strength=0.8)
    with make_backend(tiny_qwen_image, pipelines=card, rename={"guidance_scale": "true_cfg_scale"}) as backend:
        *texts, edited, bad = backend.generate_batch([text_request(1), text_request(2), edit, text_request(width=72)])

    assert [metadata(text)["batch_size"] for text in texts] == [2, 2]
    assert pixels(edited).shape == (32, 64, 3)
    assert isinstance(bad, GenerationError)
    assert "width: 72 is not a multiple of 16" in str(bad)


def test_an_edit_model_takes_one_image_a_pass(tiny_flux: Path) -> None:
    """Several images mean one edit of them all."""
    edits = [
        ImageEditRequest("make it night", image=gray(64, 32), steps=2, seed=seed, extra=KEEP_SIZE) for seed in (1, 2, 1)
    ]
    with make_backend(tiny_flux, pipelines={"image_to_image": "FluxKontextPipeline"}) as backend:
        items = backend.generate_batch(edits)

    assert [metadata(item)["batch_size"] for item in items] == [1, 1, 1]
    assert metadata(items[0])["pipeline"] == "FluxKontextPipeline"
    assert pixels(items[0]).shape == (32, 64, 3)
    assert levels_apart(items[0], items[1]) > 0
    assert levels_apart(items[0], items[2]) == 0


def test_an_edit_model_shows_a_picture_from_every_side_with_one_seed(tiny_flux: Path) -> None:
    request = MultiAngleRequest(
        "a fox", gray(64, 32), angles=("front", "back", "front"), steps=2, seed=1, extra=KEEP_SIZE
    )
    with make_backend(tiny_flux, pipelines={"multi_view_image": "FluxKontextPipeline"}) as backend:
        (views,) = backend.generate_batch([request])

    assert isinstance(views, list)
    assert [view.metadata["angle"] for view in views] == ["front", "back", "front"]
    assert {view.metadata["seed"] for view in views} == {1}
    assert levels_apart(views[0], views[1]) > 0
    assert levels_apart(views[0], views[2]) == 0


def test_views_that_do_not_fit_in_memory_together_are_made_one_by_one(tiny_sd: Path) -> None:
    request = MultiAngleRequest("a fox", gray(64, 32), angles=("front", "back"), steps=4, seed=1)
    calls: list[int] = []

    def fail_once(step: int, total: int | None) -> None:
        calls.append(step)
        if len(calls) == 1:
            raise RuntimeError("out of memory")

    with make_backend(tiny_sd) as backend:
        (views,) = backend.generate_batch([request], on_step=fail_once)
        (expected,) = backend.generate_batch([request])

    assert isinstance(views, list)
    assert isinstance(expected, list)
    assert [view.metadata["batch_size"] for view in views] == [1, 1]
    assert {view.metadata["reproducibility"] for view in views} == {"perceptual"}
    assert max(levels_apart(one, other) for one, other in zip(views, expected, strict=True)) <= 1


def test_stable_video_diffusion_makes_a_video_of_the_frames_asked_for(tiny_svd: Path) -> None:
    request = ImageToVideoRequest(
        gray(64, 64), num_frames=3, fps=6, steps=2, seed=1, extra={"motion_bucket_id": 90, "decode_chunk_size": 2}
    )
    with make_backend(tiny_svd, pipelines={"image_to_video": "StableVideoDiffusionPipeline"}) as backend:
        (video,) = backend.generate_batch([request])
        (prompted,) = backend.generate_batch([ImageToVideoRequest(gray(64, 64), "a fox", num_frames=3, seed=1)])

    assert isinstance(video, GeneratedAsset)
    info = probe(video.data, video.mime_type)
    assert (info.width, info.height, info.frames) == (64, 64, 3)
    assert info.duration_s == pytest.approx(0.5)
    assert isinstance(prompted, GenerationError)
    assert str(prompted) == "prompt: StableVideoDiffusionPipeline takes none"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("JoyImageEditPlusPipeline", ["text_to_image", "image_to_image", "multi_view_image"]),
        ("StableDiffusionDiffEditPipeline", []),
        ("QwenImageLayeredPipeline", []),
        ("VisualClozePipeline", []),
    ],
)
def test_what_a_class_does_is_told_by_its_arguments_and_its_name(name: str, kinds: list[str]) -> None:
    """A list called images is an input; a mask without an image, layers and rows of examples fit no task."""
    source = read_pipeline(name)

    assert source is not None
    assert [kind for kind in PIPELINE_KINDS if fits(kind, name, source.required, {})] == kinds


def test_the_sizes_of_joyimage_are_those_of_diffusers() -> None:
    from diffusers.pipelines.joyimage.image_processor import BUCKETS

    rule = OUTPUT_SIZES["JoyImageEditPipeline"]

    assert {(height, width) for width, height in rule.sizes} == set(BUCKETS[1024])
    assert rule.describe().endswith(" …")
