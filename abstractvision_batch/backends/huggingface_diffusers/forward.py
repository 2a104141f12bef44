"""One forward pass over requests that may share it, and what became of each.

Each request has its own generator on the CPU, so its noise depends neither on its neighbours nor on the device. Output
that is not finite is generated again in float32; so is a picture that half precision left all black, and float32 has
the last word on it.

Not covered: which requests share a pass (`backend`), what they ask for (`prepare`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from abstractvision_batch.backends.huggingface_diffusers.families import IMAGE_LISTS, argument_names
from abstractvision_batch.backends.huggingface_diffusers.loaded_model import LoadedModel
from abstractvision_batch.backends.huggingface_diffusers.loading import quiet, short
from abstractvision_batch.backends.huggingface_diffusers.pipeline_output import Floats, read_output
from abstractvision_batch.backends.huggingface_diffusers.prepare import PreparedRequest, request_scheduler
from abstractvision_batch.backends.huggingface_diffusers.torch_state import package_versions, repeats_exactly
from abstractvision_batch.backends.huggingface_diffusers.weight_files import hash_lora
from abstractvision_batch.errors import (
    DependencyError,
    GenerationCancelledError,
    GenerationError,
    InvalidOutputError,
    OutOfMemoryError,
    PolicyError,
)
from abstractvision_batch.media.images import Rgb, raw_rgb
from abstractvision_batch.media.video import encode_video
from abstractvision_batch.types import RAW_RGB_MIME_TYPE, GeneratedAsset

#: Called with (step, total) after each denoising step; may raise to end the pass.
StepHook = Callable[[int, int | None], None]

#: What a pipeline raises for a request that it cannot do. Anything else is a bug of ours and passes through.
PIPELINE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True)
class Output:
    """The frames of one request (one frame is an image) and how they came about."""

    frames: list[Rgb]
    batch_size: int
    retried_fp32: bool
    regrouped: bool = False
    """Whether a shared pass failed, so that this request was run again without the others."""


def run_forward(
    model: LoadedModel, group: Sequence[PreparedRequest], on_step: StepHook
) -> list[Output | GenerationError]:
    """Run requests of one key in one forward pass.

    If the pass fails, each is run alone, so that one bad request leaves the others alone.

    Raises:
        GenerationCancelledError: `on_step` raised it.
        DependencyError: an adapter or transformer of the backend's configuration is missing or does not fit.
    """
    kind = group[0].kind
    if len(group) > 1 and not model.shares(kind):
        return _run_apart(model, group, on_step)
    try:
        outcomes = _run(model, group, on_step)
        if len(group) > 1:
            model.note_shared(kind, failed=False)
        return outcomes
    except GenerationCancelledError:
        raise
    except GenerationError as error:
        return [error for _ in group]
    except DependencyError as error:
        first = group[0]
        own = request_scheduler({}, model.config.scheduler)
        usual = (model.config.loras, model.config.rapid_aio_repo, own)
        if (first.loras, first.rapid_aio_repo, first.scheduler) == usual:
            raise
        return [GenerationError(str(error)) for _ in group]  # what is missing is what only these requests asked for
    except PIPELINE_ERRORS as exc:
        if len(group) > 1:
            apart = _run_apart(model, group, on_step)
            if all(isinstance(outcome, Output) for outcome in apart):
                model.note_shared(kind, failed=True)
            return apart
        failed = GenerationError(f"{type(model.pipeline(group[0].kind)).__name__}: {short(exc)}")
        failed.__cause__ = exc
        return [failed]


def _run_apart(
    model: LoadedModel, group: Sequence[PreparedRequest], on_step: StepHook
) -> list[Output | GenerationError]:
    alone = [outcome for request in group for outcome in run_forward(model, [request], on_step)]
    return [replace(one, regrouped=True) if isinstance(one, Output) else one for one in alone]


def _run(model: LoadedModel, group: Sequence[PreparedRequest], on_step: StepHook) -> list[Output | GenerationError]:
    model.pipeline(group[0].kind)
    model.use_denoiser(group[0].rapid_aio_repo)
    model.activate_loras(group[0].loras)
    videos, refused = _call(model, group, on_step)
    wrong = [index for index, video in enumerate(videos) if not refused[index] and _is_wrong(video, model.dtype)]
    retry = bool(wrong) and model.config.auto_retry_fp32 and model.dtype != torch.float32
    # weights that are offloaded one by one are not in memory to be widened, and quantised ones cannot be
    retry = retry and model.config.offload != "sequential" and not model.config.quantized
    if retry:
        with model.in_float32():
            again, _ = _call(model, [group[index] for index in wrong], on_step)
        for index, video in zip(wrong, again, strict=True):
            videos[index] = video
    outcomes: list[Output | GenerationError] = []
    for index, (request, video) in enumerate(zip(group, videos, strict=True)):
        if refused[index]:
            outcomes.append(PolicyError("the model's safety checker refused the image"))
        elif not np.isfinite(video).all():
            tried = "float32 too" if retry else str(model.dtype).removeprefix("torch.")
            outcomes.append(InvalidOutputError(f"the output is not finite (NaN or infinite), in {tried}"))
        else:
            outcomes.append(_finish(request, video, len(group), retry and index in wrong))
    return outcomes


def _call(model: LoadedModel, group: Sequence[PreparedRequest], on_step: StepHook) -> tuple[list[Floats], list[bool]]:
    """Call the pipeline; return (frames, height, width, 3) in 0 … 1 per request, and which were refused."""
    first = group[0]
    pipeline = model.pipeline(first.kind)
    model.use_scheduler(first.kind, first.scheduler)
    accepted = inspect.signature(type(pipeline).__call__).parameters
    names = argument_names(accepted, model.config.rename)

    def together(values: list[Any]) -> Any:
        """Some pipelines take no list, so one request goes in as plain values."""
        return values if len(group) > 1 else values[0]

    arguments: dict[str, Any] = dict(first.shared)
    arguments["generator"] = together([torch.Generator("cpu").manual_seed(request.seed) for request in group])
    if "output_type" in accepted:
        arguments["output_type"] = "np"
    if names["prompt"] in accepted:
        arguments[names["prompt"]] = together([request.prompt for request in group])
    if first.negative_prompt is not None:
        arguments[names["negative_prompt"]] = together([request.negative_prompt for request in group])
    if first.image is not None:
        listed = names["image"] in IMAGE_LISTS
        arguments[names["image"]] = together([[request.image] if listed else request.image for request in group])
    if first.mask is not None:
        arguments[names["mask"]] = together([request.mask for request in group])
    if "callback_on_step_end" in accepted:
        arguments["callback_on_step_end"] = _step_callback(on_step)
    try:
        with quiet():
            result = pipeline(**arguments)
    except torch.OutOfMemoryError as exc:
        raise _out_of_memory(pipeline, len(group), exc) from exc
    except RuntimeError as exc:
        if any(words in str(exc).lower() for words in _OUT_OF_MEMORY):
            raise _out_of_memory(pipeline, len(group), exc) from exc
        raise
    finally:
        pipeline.maybe_free_model_hooks()
    videos = read_output(result, len(group), video=first.kind.endswith("video"), name=type(pipeline).__name__)
    refused = getattr(result, "nsfw_content_detected", None) or [False] * len(group)
    return videos, [bool(flag) for flag in refused]


def _step_callback(on_step: StepHook) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    def callback(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(index + 1, getattr(pipeline, "num_timesteps", None))
        return tensors

    return callback


def _is_wrong(video: Floats, dtype: torch.dtype) -> bool:
    return not np.isfinite(video).all() or (dtype != torch.float32 and not video.any())


def _finish(request: PreparedRequest, video: Floats, batch_size: int, retried: bool) -> Output | GenerationError:
    frames = [(frame * 255).round().astype(np.uint8) for frame in video]
    height, width, _ = frames[0].shape
    if request.expected_size is not None and (width, height) != request.expected_size:
        asked = "x".join(map(str, request.expected_size))
        return InvalidOutputError(f"the output is {width}x{height} where {asked} was asked for")
    if request.expected_frames is not None and len(frames) != request.expected_frames:
        return InvalidOutputError(f"the output has {len(frames)} frames where {request.expected_frames} were asked for")
    if request.mask is not None and request.image is not None:
        # the pipeline decodes the whole picture again; what the mask keeps is the input's, pixel for pixel
        made = Image.fromarray(frames[0])
        image = _of_size(request.image, made.size, Image.Resampling.LANCZOS)
        mask = _of_size(request.mask, made.size, Image.Resampling.BILINEAR)
        frames = [np.asarray(Image.composite(made, image, mask))]
    return Output(frames, batch_size, retried)


def _of_size(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resampling)


def _out_of_memory(pipeline: Any, batch_size: int, exc: BaseException) -> OutOfMemoryError:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return OutOfMemoryError(f"{type(pipeline).__name__}: a batch of {batch_size} does not fit in memory: {short(exc)}")


def make_asset(model: LoadedModel, request: PreparedRequest, output: Output) -> GeneratedAsset:
    """Raw pixels for an image, an MP4 file for a video."""
    metadata = _describe(model, request, output)
    if request.fps is not None:
        return GeneratedAsset("video", encode_video(output.frames, fps=request.fps), "video/mp4", metadata)
    return GeneratedAsset("image", raw_rgb(output.frames[0]), RAW_RGB_MIME_TYPE, metadata)


def _describe(model: LoadedModel, request: PreparedRequest, output: Output) -> dict[str, Any]:
    config, pipeline = model.config, model.pipeline(request.kind)
    metadata: dict[str, Any] = {
        "source": "diffusers",
        "model_id": config.model_id,
        "model_path": model.files.name,
        "revision": model.files.revision,
        "pipeline": type(pipeline).__name__,
        "scheduler": type(pipeline.scheduler).__name__,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": output.batch_size,
        "versions": dict(package_versions()),
        **request.notes,
    }
    if request.scheduler is not None and request.scheduler.settings:
        metadata["scheduler_settings"] = dict(request.scheduler.settings)
    if request.loras:
        metadata["loras"] = [
            {"source": lora.source, "scale": lora.scale, "sha256": hash_lora(lora, config)} for lora in request.loras
        ]
    if request.rapid_aio_repo is not None:
        metadata["rapid_aio_repo"] = request.rapid_aio_repo
    if request.fps is not None:
        metadata["fps"] = request.fps
    if output.retried_fp32:
        metadata["retried_fp32"] = True
    if output.regrouped or not repeats_exactly(model.device, config.torch_compile):
        metadata["reproducibility"] = "perceptual"  # regrouped: the pass had another size than the caller's batch
    return metadata
