"""Sizes and frames that pipelines choose: what may be asked for, what comes out, and what is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.huggingface_diffusers.families import OUTPUT_SIZES
from abstractvision_batch.backends.huggingface_diffusers.prepare import prepare_request
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.probe import probe
from abstractvision_batch.registry.output_size import OutputSize
from abstractvision_batch.types import GeneratedAsset, ImageEditRequest, ImageGenerationRequest, VideoGenerationRequest
from tests.support.tiny_diffusers import gray, make_backend, metadata, pixels
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_models import save

pytestmark = pytest.mark.model

Family = Callable[[str], Path]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Folder of a tiny model of a pipeline class."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = save(FAMILIES[name], tmp_path_factory.mktemp("models") / name)
        return made[name]

    return folder


def test_an_upscaler_makes_its_input_four_times_as_large(family: Family) -> None:
    """Nobody typed a size, and yet every request failed: 128x128 where 32x32 was asked for."""
    card = {"image_to_image": "StableDiffusionUpscalePipeline"}
    asked = ImageEditRequest("a fox", image=gray(16, 24), width=16, height=24, steps=2, seed=1)
    with make_backend(family("StableDiffusionUpscalePipeline"), pipelines=card) as backend:
        free, refused = backend.generate_batch([ImageEditRequest("a fox", image=gray(16, 24), steps=2, seed=1), asked])

    assert pixels(free).shape == (96, 64, 3)
    assert isinstance(refused, GenerationError)
    assert "4 times as wide and as high as the input image" in str(refused)


@pytest.mark.slow
def test_kontext_makes_exactly_the_size_asked_for(tiny_flux: Path) -> None:
    """Its own way is to scale whatever it is asked for to a megapixel."""
    edit = ImageEditRequest("a fox", image=gray(64, 64), width=64, height=32, steps=1, seed=1)
    own = ImageEditRequest("a fox", image=gray(64, 32), steps=1, seed=1, extra={"max_area": 32 * 64})
    masked = ImageEditRequest("a fox", image=gray(64, 32), mask=gray(64, 32), width=32, height=16, steps=2, seed=1)
    card = {"image_to_image": "FluxKontextPipeline", "inpaint": "FluxKontextInpaintPipeline"}
    with make_backend(tiny_flux, pipelines=card) as backend:
        exact, area, inpainted = backend.generate_batch([edit, own, masked])

    assert pixels(exact).shape == (32, 64, 3)
    assert pixels(area).shape == (32, 64, 3)
    assert pixels(inpainted).shape == (16, 32, 3)


@pytest.mark.parametrize(
    ("name", "size", "comes_out"),
    [
        ("HiDreamImagePipeline", (64, 64), (1024, 1024)),
        ("HiDreamImagePipeline", (1360, 768), (1360, 768)),
        ("HiDreamImagePipeline", (1280, 704), (1376, 752)),
        ("Kandinsky5T2IPipeline", (512, 512), (1024, 1024)),
        ("Kandinsky5T2IPipeline", (1280, 720), (1280, 768)),
        ("QwenImageEditInpaintPipeline", (512, 256), (1440, 736)),
        ("FluxKontextPipeline", (512, 256), (512, 256)),
        ("StableDiffusionUpscalePipeline", (512, 256), None),
    ],
)
def test_what_comes_out_of_a_size_is_known_beforehand(
    name: str, size: tuple[int, int], comes_out: tuple[int, int] | None
) -> None:
    rule = OUTPUT_SIZES[name]

    assert rule.follow(*size) == comes_out
    assert (rule.problem(*size) is None) == (comes_out == size)


def test_a_size_that_a_model_would_change_is_refused_before_it_generates(tiny_flux: Path) -> None:
    """The class decides, so a stand-in of its name is enough."""

    class HiDreamImagePipeline:
        def __call__(self, prompt: Any = None, width: int | None = None, height: int | None = None) -> None: ...

    with make_backend(tiny_flux) as backend, pytest.raises(GenerationError, match="1376x752") as error:
        prepare_request(ImageGenerationRequest("a fox", width=1280, height=704), HiDreamImagePipeline(), backend.config)

    assert "width and height: HiDreamImagePipeline: 1280x704 would come out as 1376x752" in str(error.value)


def test_without_a_size_what_comes_out_is_the_models_business(tiny_sd: Path) -> None:
    with make_backend(tiny_sd) as backend:
        (item,) = backend.generate_batch([ImageGenerationRequest("a fox", steps=1, seed=1)])

    assert pixels(item).shape[0] == pixels(item).shape[1]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_frames_come_in_whole_chunks_and_others_are_refused(family: Family) -> None:
    def request(frames: int) -> VideoGenerationRequest:
        extra = {"num_latent_frames_per_chunk": 2, "max_sequence_length": 16}
        return VideoGenerationRequest("a", width=32, height=32, num_frames=frames, steps=1, seed=1, extra=extra)

    with make_backend(family("HeliosPipeline")) as backend:
        made, refused = backend.generate_batch([request(5), request(9)])

    assert isinstance(made, GeneratedAsset), made
    assert probe(made.data, made.mime_type).frames == 5
    assert str(refused) == "num_frames: 9 is not 5 times n (nearest: 5, 10)"


def test_a_video_whose_frames_have_another_name_is_a_video(family: Family) -> None:
    """It was taken for an image model, and the first frame came out as a picture, without a word."""
    request = VideoGenerationRequest("a fox", width=64, height=64, num_frames=3, fps=4, steps=1, seed=1)
    with make_backend(family("LattePipeline")) as backend:
        (video,) = backend.generate_batch([request])
        capabilities = backend.get_capabilities()
        with pytest.raises(Exception, match="does no text_to_image"):
            backend.generate_batch([ImageGenerationRequest("a fox", width=64, height=64, steps=1)])

    assert isinstance(video, GeneratedAsset), video
    info = probe(video.data, video.mime_type)
    assert (info.frames, info.width, info.height) == (3, 64, 64)
    assert capabilities is not None
    assert capabilities.supported_tasks == ["text_to_video"]


def test_a_card_may_rename_frames_and_size(family: Family) -> None:
    """The names are those of other parameters, so a value that went elsewhere would show."""
    request = VideoGenerationRequest("a fox", width=64, height=32, num_frames=3, steps=1, seed=1)
    rename = {"num_frames": "video_length", "width": "height", "height": "width"}
    with make_backend(family("LattePipeline"), rename=rename) as backend:
        (item,) = backend.generate_batch([request])

    assert str(item) == "the output is 32x64 where 64x32 was asked for"


def test_an_edit_takes_lists_in_extra_whole(family: Family) -> None:
    """Each was cut to its first element: 'int' object is not iterable."""
    extra = {"sigmas": [1.0, 0.5], "text_encoder_out_layers": [0, 1], "max_sequence_length": 32}
    edit = ImageEditRequest("a fox", image=gray(), width=64, height=64, steps=2, seed=1, extra=extra)
    text = ImageGenerationRequest("a fox", width=64, height=64, steps=2, seed=1, extra=extra)
    with make_backend(family("Flux2KleinPipeline")) as backend:
        edited, drawn = backend.generate_batch([edit, text])

    assert pixels(edited).shape == pixels(drawn).shape == (64, 64, 3)


def test_a_pipeline_that_takes_no_list_of_prompts_gets_one_prompt_a_call(family: Family) -> None:
    def request(seed: int) -> VideoGenerationRequest:
        extra = {"max_sequence_length": 16}
        return VideoGenerationRequest("a", width=32, height=32, num_frames=5, steps=1, seed=seed, extra=extra)

    with make_backend(family("WanVACEPipeline")) as backend:
        items = backend.generate_batch([request(1), request(2)])

    assert [metadata(item)["batch_size"] for item in items] == [1, 1]
    assert all("reproducibility" not in metadata(item) for item in items)


def test_a_model_saved_to_edit_draws_from_text_where_its_weights_can(family: Family) -> None:
    text = ImageGenerationRequest("a fox", width=32, height=32, steps=1, seed=1)
    with make_backend(family("StableDiffusionImg2ImgPipeline")) as backend:
        (item,) = backend.generate_batch([text])
    with (
        make_backend(family("StableDiffusionInstructPix2PixPipeline")) as backend,
        pytest.raises(Exception, match=r"no text_to_image with these weights, which are made for .* \(8 channels"),
    ):
        backend.generate_batch([text])

    assert metadata(item)["pipeline"] == "StableDiffusionPipeline"


def test_the_words_of_a_rule_say_what_would_do() -> None:
    assert OutputSize(area=1024 * 1024, multiple_of=16).problem(512, 512) == (
        "512x512 would come out as 1024x1024: the output has about 1048576 pixels, its sides are multiples of 16 "
        "(ask for that size)"
    )
    assert OutputSize(from_image=True).problem(512, 512) == (
        "they cannot be chosen: the size follows from the input image (leave them out)"
    )
