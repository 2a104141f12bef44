"""What pipelines answer: every name and form of it, what is refused, and who cannot share a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.backends.huggingface_diffusers.families import kinds_of
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
    VisionRequest,
)
from tests.support.tiny_diffusers import gray, make_backend, metadata, text_request
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_models import make_flux, make_qwen_image, make_sd, make_sdxl, make_svd, make_wan, save

pytestmark = pytest.mark.model

PICTURE = np.zeros((4, 6, 3), np.float32)
RED = np.array([1.0, 0.0, 0.0], np.float32)
PICTURE[:, :, 0] = 1.0
PIL = Image.new("RGB", (6, 4), (255, 0, 0))


class Answer:
    """A pipeline's output: attributes, as Diffusers' own classes have them."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def read_output(answer: Any, count: int, *, video: bool) -> Any:
    from abstractvision_batch.backends.huggingface_diffusers.pipeline_output import read_output

    return read_output(answer, count, video=video, name="P")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(images=PICTURE[None]),
        Answer(images=[PIL]),
        Answer(images=[[PIL]]),
        Answer(images=[PICTURE]),
        Answer(images=(PICTURE[None] * 255).astype(np.uint8)),
        Answer(images=np.concatenate([PICTURE, np.ones((4, 6, 1), np.float32)], axis=-1)[None]),
        Answer(image=PICTURE[None]),
        Answer(image=PICTURE),
        Answer(image=PIL),
        (PICTURE[None],),
    ],
)
def test_a_picture_is_read_whatever_its_name_and_form(answer: Any) -> None:
    (frames,) = read_output(answer, 1, video=False)

    assert frames.shape == (1, 4, 6, 3)
    assert np.allclose(frames, RED)


def test_tensors_are_read_with_their_channels_first() -> None:
    import torch

    picture = torch.from_numpy(PICTURE).permute(2, 0, 1)
    (image,) = read_output(Answer(images=picture[None]), 1, video=False)
    (video,) = read_output(Answer(frames=torch.stack([picture, picture])[None]), 1, video=True)

    assert (image.shape, video.shape) == ((1, 4, 6, 3), (2, 4, 6, 3))
    assert np.allclose(image, RED)
    assert np.allclose(video, RED)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(frames=np.stack([PICTURE, PICTURE])[None]),
        Answer(frames=[[PIL, PIL]]),
        Answer(frames=[np.stack([PICTURE, PICTURE])]),
        Answer(videos=np.stack([PICTURE, PICTURE])[None]),
        Answer(video=np.stack([PICTURE, PICTURE]), sound=None),
        Answer(video=[PIL, PIL]),
        Answer(images=np.stack([PICTURE, PICTURE])),
        (np.stack([PICTURE, PICTURE])[None], None),
    ],
)
def test_a_video_is_read_whatever_its_name_and_form(answer: Any) -> None:
    (frames,) = read_output(answer, 1, video=True)

    assert frames.shape == (2, 4, 6, 3)
    assert np.allclose(frames, RED)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(frames=np.stack([PICTURE, PICTURE])[None]), "P: made a video where an image was asked for"),
        (Answer(images=np.stack([PICTURE, PICTURE])), "P: answered 1 request with images of shape (2, 1, 4, 6, 3)"),
        (Answer(sequences=[1]), "P: answered with neither pictures nor frames"),
        (Answer(images=np.zeros((1, 4, 6, 2), np.float32)), "P: answered with 2 channels"),
    ],
)
def test_what_is_no_picture_is_one_line_and_never_the_first_frame(answer: Any, said: str) -> None:
    with pytest.raises(GenerationError) as error:
        read_output(answer, 1, video=False)

    assert str(error.value).startswith(said)


def test_a_model_that_cannot_share_a_pass_is_not_made_to_try_each_time(tiny_sd: Path) -> None:
    """After two shared passes that fail while each request alone works, the others run alone at once."""
    ended: list[int] = []
    calls: list[int] = []

    with make_backend(tiny_sd) as backend:
        unet = backend.loaded().base.unet

        def refuse_two(module: Any, args: Any, kwargs: Any) -> None:
            calls.append(1)
            if kwargs["encoder_hidden_states"].shape[0] > 2:  # two prompts, each with its negative one
                ended.append(1)
                raise ValueError("mask of two")

        hook = unet.register_forward_pre_hook(refuse_two, with_kwargs=True)
        try:
            batches = [backend.generate_batch([text_request(1), text_request(2)]) for _ in range(4)]
        finally:
            hook.remove()

    assert len(ended) == 2
    assert [metadata(item)["batch_size"] for batch in batches for item in batch] == [1] * 8
    assert all(metadata(item)["reproducibility"] == "perceptual" for batch in batches for item in batch)


MODELS: dict[str, Callable[[], Any]] = {
    **FAMILIES,
    "FluxPipeline": make_flux,
    "QwenImagePipeline": make_qwen_image,
    "StableDiffusionPipeline": make_sd,
    "StableDiffusionVideoPipeline": make_svd,
    "StableDiffusionXLPipeline": make_sdxl,
    "WanPipeline": make_wan,
}
EXTRA: dict[str, dict[str, Any]] = {
    "Flux2KleinPipeline": {"text_encoder_out_layers": [0, 1], "max_sequence_length": 32},
    "HeliosPipeline": {"num_latent_frames_per_chunk": 2, "max_sequence_length": 16},
    "WanPipeline": {"max_sequence_length": 16},
    "WanVACEPipeline": {"max_sequence_length": 16},
}
#: Kinds that a class has no pipeline for, though it makes pictures.
NONE = {
    "LattePipeline": {"image_to_video"},
    "StableDiffusionUpscalePipeline": {"text_to_image", "inpaint"},
    "StableDiffusionInstructPix2PixPipeline": {"text_to_image", "inpaint"},
    "Flux2KleinPipeline": set(),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_does_what_its_class_says(tmp_path: Path, name: str) -> None:
    """The sweep: each kind of request that a class fits, without a card and without a size."""
    pipeline = MODELS[name]()
    source = read_pipeline(type(pipeline).__name__)
    assert source is not None
    folder = save(lambda: pipeline, tmp_path / name)
    with make_backend(folder) as backend:
        for kind in kinds_of(source.name, source.required, {}):
            if kind in NONE.get(name, set()) or kind == "multi_view_image":
                continue
            (item,) = backend.generate_batch([request_of(kind, EXTRA.get(name, {}), name)])
            assert isinstance(item, GeneratedAsset), (name, kind, item)
            assert item.media_type == ("video" if kind.endswith("video") else "image")


def request_of(kind: str, extra: dict[str, Any], name: str) -> VisionRequest:
    frames = {"LattePipeline": 3}.get(name, 5)
    match kind:
        case "text_to_image":
            return ImageGenerationRequest("a fox", width=64, height=64, steps=2, seed=1, extra=extra)
        case "text_to_video":
            return VideoGenerationRequest(
                "a fox",
                width=32 if name != "LattePipeline" else 64,
                height=32 if name != "LattePipeline" else 64,
                num_frames=frames,
                steps=1,
                seed=1,
                extra=extra,
            )
        case "image_to_video":
            prompt = "" if name == "StableDiffusionVideoPipeline" else "a fox"
            return ImageToVideoRequest(gray(64, 64), prompt, num_frames=frames, steps=1, seed=1, extra=extra)
    mask = gray(64, 64) if kind == "inpaint" else None
    return ImageEditRequest("a fox", image=gray(64, 64), mask=mask, steps=4, seed=1, extra=extra)
