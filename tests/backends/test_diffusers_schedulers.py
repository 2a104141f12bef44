"""Schedulers with settings, for a model and for single requests: the pixels of Diffusers' own call with the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend
from abstractvision_batch.errors import CapabilityNotSupportedError, GenerationError
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.types import ImageEditRequest, VideoGenerationRequest
from tests.support.tiny_diffusers import gray, make_backend, metadata, pixels, text_request

#: DPM2's construction, with a NumPy as new as here.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

KARRAS: dict[str, Any] = {
    "name": "DPMSolverMultistepScheduler",
    "use_karras_sigmas": True,
    "timestep_spacing": "trailing",
}
FLOW = {"name": "UniPC", "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3}
#: How a request may name one, with the class and the settings that it means.
CHOICES: list[tuple[Any, str, dict[str, Any]]] = [
    (KARRAS, "DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
    ("DPM++ 2M SDE Karras", KARRAS["name"], {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}),
    ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
    ("LCM", "LCMScheduler", {}),
    ({"name": "LMS beta"}, "LMSDiscreteScheduler", {"timestep_spacing": "linspace", "use_beta_sigmas": True}),
    ({"name": "DDIM", "prediction_type": "v_prediction"}, "DDIMScheduler", {"prediction_type": "v_prediction"}),
    ("DPM2 a", "KDPM2AncestralDiscreteScheduler", {}),
    ({"name": "PLMS", "skip_prk_steps": True}, "PNDMScheduler", {"skip_prk_steps": True}),
]


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> Iterator[HuggingFaceDiffusersVisionBackend]:
    with make_backend(tiny_sd) as backend:
        yield backend


def call_diffusers(pipeline: Any, scheduler: str, settings: dict[str, Any], **arguments: Any) -> Any:
    import diffusers

    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **settings)
    made = pipeline(**arguments, output_type="np", generator=torch.Generator("cpu").manual_seed(1))
    return (made.images[0] * 255).round().astype("uint8")


def test_settings_give_the_pixels_of_diffusers_own_call(tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend) -> None:
    from diffusers import StableDiffusionPipeline

    for written, name, settings in CHOICES:
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
        expected = call_diffusers(
            pipeline, name, settings, prompt="a fox 1", width=64, height=64, num_inference_steps=4
        )
        (item,) = sd.generate_batch([text_request(steps=4, guidance_scale=7.5, extra={"scheduler": written})])

        assert (pixels(item) == expected).all(), written
        assert metadata(item)["scheduler"] == name
        assert metadata(item).get("scheduler_settings", {}) == settings


def test_the_field_of_a_job_gives_the_pixels_of_the_same_in_each_request(
    tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend
) -> None:
    with make_backend(tiny_sd, scheduler=KARRAS) as backend:
        of_job, own = backend.generate_batch([text_request(), text_request(extra={"scheduler": None})])

    assert (pixels(of_job) == pixels(sd.generate_batch([text_request(extra={"scheduler": KARRAS})])[0])).all()
    assert (pixels(own) == pixels(sd.generate_batch([text_request()])[0])).all(), "null asks for the model's own"


def test_a_batch_of_many_schedulers_gives_what_each_gives_alone_whatever_ran_before(
    tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend
) -> None:
    """A multistep scheduler remembers the model's last outputs, and one of noise its generator."""
    chosen = [None, *(written for written, _, _ in CHOICES)]
    requests = [text_request(seed, steps=3, extra={"scheduler": written}) for written in chosen for seed in (1, 2)]
    together = sd.generate_batch(requests)
    backwards = sd.generate_batch(requests[::-1])[::-1]

    assert len({pixels(item).tobytes() for item in together}) == len(requests), "each scheduler has its own picture"
    assert {metadata(item)["batch_size"] for item in together} == {2}
    for index, item in enumerate(together):
        assert (pixels(item) == pixels(backwards[index])).all()
    with make_backend(tiny_sd) as fresh:
        pair = fresh.generate_batch(requests[6:8])
    assert [pixels(item).tobytes() for item in pair] == [pixels(item).tobytes() for item in together[6:8]]


def test_every_kind_of_pipeline_has_the_scheduler_and_gives_it_back(
    tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend
) -> None:
    """The constructor of the inpaint pipeline changes the configuration of the scheduler that it is given."""
    import diffusers

    images: dict[str, Any] = {"image": gray(), "width": 64, "height": 64, "steps": 4, "strength": 1.0, "seed": 1}
    before = sd.generate_batch([text_request(extra={"scheduler": CHOICES[-1][0]})])
    edit, paint = sd.generate_batch(
        [
            ImageEditRequest(prompt="a fox", **images, extra={"scheduler": KARRAS}),
            ImageEditRequest(prompt="a fox", **images, mask=gray(), extra={"scheduler": "Euler a"}),
        ]
    )
    after = sd.generate_batch([text_request(extra={"scheduler": CHOICES[-1][0]})])

    base = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd, local_files_only=True)
    settings = {key: value for key, value in KARRAS.items() if key != "name"}
    expected = call_diffusers(
        base,
        KARRAS["name"],
        settings,
        prompt="a fox",
        image=decode_image(gray()),
        num_inference_steps=4,
        strength=1.0,
    )
    assert (pixels(edit) == expected).all()
    assert metadata(paint)["scheduler"] == "EulerAncestralDiscreteScheduler"
    assert (pixels(before[0]) == pixels(after[0])).all()


def test_a_solver_of_noise_solves_a_flow_with_its_settings(tiny_flux: Path) -> None:
    from diffusers import FluxPipeline

    settings = {key: value for key, value in FLOW.items() if key != "name"}
    expected = call_diffusers(
        FluxPipeline.from_pretrained(tiny_flux, local_files_only=True),
        "UniPCMultistepScheduler",
        settings,
        prompt="a fox 1",
        width=64,
        height=64,
        num_inference_steps=3,
    )
    with make_backend(tiny_flux) as backend:
        request = text_request(steps=3, guidance_scale=3.5, extra={"scheduler": FLOW})
        own, solved, wrong, unfit = backend.generate_batch(
            [
                text_request(steps=3),
                request,
                text_request(extra={"scheduler": "UniPC"}),
                text_request(extra={"scheduler": "Euler a"}),
            ]
        )

    assert (pixels(solved) == expected).all()
    assert metadata(own)["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert str(wrong) == (
        "extra.scheduler: UniPCMultistepScheduler fits a model that predicts a flow with use_flow_sigmas: true and "
        "prediction_type: flow_prediction (add that)"
    )
    assert isinstance(unfit, GenerationError)
    assert "does not fit a model made for FlowMatchEulerDiscreteScheduler" in str(unfit)


def test_videos_have_schedulers_too(tiny_wan: Path) -> None:
    video: dict[str, Any] = {"prompt": "a fox", "width": 32, "height": 32, "num_frames": 5, "steps": 2, "seed": 1}
    shift = {"name": "FlowMatchEulerDiscreteScheduler", "shift": 1}
    with make_backend(tiny_wan) as backend:
        own, shifted = backend.generate_batch(
            [VideoGenerationRequest(**video), VideoGenerationRequest(**video, extra={"scheduler": shift})]
        )

    assert metadata(shifted)["scheduler_settings"] == {"shift": 1}
    assert own.data != shifted.data  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("Eular a", r"Diffusers has no Eular a \(did you mean Euler a\?\)"),
        (
            {"name": "Euler", "use_karas_sigmas": True},
            "use_karas_sigmas: unknown field .did you mean use_karras_sigmas",
        ),
        ({"name": "DPM++ 2M", "beta_schedule": "steep"}, "cannot be made so: steep is not implemented"),
        (7, "7 is not a scheduler"),
    ],
)
def test_what_is_wrong_with_a_scheduler_is_one_line(tiny_sd: Path, scheduler: Any, said: str) -> None:
    with pytest.raises(CapabilityNotSupportedError, match=f"^backend.scheduler: .*{said}.*$"):
        make_backend(tiny_sd, scheduler=scheduler).preload()

    with make_backend(tiny_sd) as backend:
        wrong, right = backend.generate_batch([text_request(extra={"scheduler": scheduler}), text_request()])
    assert isinstance(wrong, GenerationError)
    assert str(wrong).startswith("extra.scheduler: ") and "\n" not in str(wrong)
    assert pixels(right).any()
