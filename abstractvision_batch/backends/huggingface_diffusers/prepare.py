"""A request as a pipeline's arguments: names translated, sizes checked, images decoded, nothing run.

Requests whose `key` is equal may share a forward pass: they differ in prompt, seed and images of one size alone. What a
pipeline would silently round, resize or ignore is an error here.

Not covered: the forward pass (`forward`).
"""

from __future__ import annotations

import inspect
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from abstractvision_batch.backends.base_backend import refuse_unread
from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.families import (
    EXACT_SIZE,
    FIXED_FRAMES,
    IMAGE_WORDS,
    NEED_NEGATIVE,
    ONE_AT_A_TIME,
    OTHER_FRAMES,
    OUTPUT_SIZES,
    argument_names,
    frame_step,
    guidance_argument,
)
from abstractvision_batch.backends.huggingface_diffusers.prompt_length import LENGTH_ARGUMENT, count_cut, readers_of
from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import SchedulerChoice, read_scheduler
from abstractvision_batch.backends.request_loras import LORA_KEYS, take_loras, takes_loras
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.inputs import read_mask, read_picture
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
)

PipelineRequest = ImageGenerationRequest | ImageEditRequest | VideoGenerationRequest | ImageToVideoRequest

DEFAULT_FPS = 16
#: What pipelines call how much smaller latents are, in space and in time.
_SPATIAL_FACTORS = (
    "vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_scale_factor", "vae_spatial_compression_ratio"
)  # fmt: skip
_TEMPORAL_FACTORS = ("vae_scale_factor_temporal", "vae_temporal_scale_factor", "vae_temporal_compression_ratio")
#: Keys of `extra` that this backend reads itself.
BACKEND_EXTRA = (*LORA_KEYS, "rapid_aio_repo", "scheduler")
#: Arguments of a pipeline that a request's own fields, its seed or this backend decide.
NOT_EXTRA = frozenset(
    {"self", "args", "kwargs", "strength", "num_images_per_prompt", "num_videos_per_prompt"}
    | {"generator", "output_type", "return_dict", "callback", "callback_steps", "callback_on_step_end"}
    | {"callback_on_step_end_tensor_inputs"}
)


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """What one request adds to a forward pass (`prompt` … `mask`), and what it needs of the whole pass (`shared`)."""

    kind: str
    prompt: str
    negative_prompt: str | None
    seed: int
    image: Image.Image | None
    mask: Image.Image | None
    shared: dict[str, Any]
    loras: tuple[LoraAdapter, ...]
    rapid_aio_repo: str | None
    """Whose transformer denoises, if not the model's own."""
    scheduler: SchedulerChoice | None
    """None is the model's own."""
    expected_size: tuple[int, int] | None
    """What the user asked for; None where the pipeline may choose."""
    expected_frames: int | None
    fps: float | None
    one_at_a_time: bool = False
    """Whether the pipeline's class does one request a call."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Metadata."""

    @property
    def key(self) -> str:
        """Equal for requests that may share a forward pass."""
        size = self.image.size if self.image is not None else None
        # None and "" are two things to some pipelines (SDXL zeroes the embedding of None), so they do not mix
        unlike = [self.kind, size, self.mask is None, self.negative_prompt is None, [repr(a) for a in self.loras]]
        of_pass = [self.rapid_aio_repo, self.scheduler and self.scheduler.plain]
        return json.dumps([unlike, of_pass, self.shared], sort_keys=True, default=repr)

    @property
    def batchable(self) -> bool:
        """Whether the pipeline takes several of these at once; a list of images to edit means one edit of them all."""
        shares = self.image is None or self.kind == "inpaint" or "strength" in self.shared
        return shares and not self.one_at_a_time


def kind_of(request: PipelineRequest) -> str:
    """Return the kind of pipeline that a request needs."""
    match request:
        case ImageGenerationRequest():
            return "text_to_image"
        case ImageEditRequest():
            return "image_to_image" if request.mask is None else "inpaint"
        case VideoGenerationRequest():
            return "text_to_video"
        case ImageToVideoRequest():
            return "image_to_video"


def prepare_request(
    request: PipelineRequest, pipeline: Any, config: HuggingFaceDiffusersBackendConfig
) -> PreparedRequest:
    """Translate a request for a pipeline.

    Raises:
        GenerationError: a value, an image or an `extra` key that the pipeline cannot take.
    """
    refuse_unread(request, ())
    accepted = inspect.signature(type(pipeline).__call__).parameters
    name = type(pipeline).__name__
    names = argument_names(accepted, config.rename)
    extra = dict(request.extra)
    shared, notes = sampling_arguments(request, accepted, name, config.rename)
    loras = request_loras(extra, config)
    rapid_aio_repo = _request_denoiser(extra, config.rapid_aio_repo)
    scheduler = request_scheduler(extra, config.scheduler)
    check_extra(extra, set(accepted) - NOT_EXTRA - set(shared) - set(names.values()), name)
    extra = extra_arguments(extra, accepted)
    shared |= extra

    image, mask, size = _images(request, size_multiple(pipeline), notes)
    asked = size if request.width is not None or request.height is not None else None
    if size is not None:
        _check_size(name, asked)
        shared |= size_arguments(name, accepted, names, size, exact=asked is not None) | extra
    fps = frames = None
    if isinstance(request, VideoGenerationRequest | ImageToVideoRequest):
        frames, fps = request.num_frames, _fps(request, accepted, names["fps"])
        if frames is not None:
            shared[_taken(names["num_frames"], "num_frames", accepted, name)] = _checked_frames(frames, pipeline, extra)
        if names["fps"] in accepted:
            shared[names["fps"]] = fps

    for field_name in ("prompt", "negative_prompt"):
        if getattr(request, field_name):
            _taken(names[field_name], field_name, accepted, name)
    negative = request.negative_prompt
    if negative is None and "true_cfg_scale" in shared:
        negative = " "  # without one these pipelines leave guidance out
    elif negative is None and name in NEED_NEGATIVE:
        negative = ""
    prompt = request.prompt or ""
    if image is not None and (word := IMAGE_WORDS.get(name)) is not None and word not in prompt:
        notes["prompt_sent"] = prompt = f"{word} {prompt}"
    notes |= _cut_notes(request, pipeline, shared, accepted)
    _check_required(accepted, {*names.values(), *shared, *NOT_EXTRA}, name)
    seed = secrets.randbelow(2**63) if request.seed is None else request.seed
    return PreparedRequest(
        kind=kind_of(request),
        prompt=prompt,
        negative_prompt=negative,
        seed=_checked_seed(seed),
        image=image,
        mask=mask,
        shared=shared,
        loras=loras,
        rapid_aio_repo=rapid_aio_repo,
        scheduler=scheduler,
        expected_size=None if set(extra) & set(EXACT_SIZE.get(name, ())) else asked,
        expected_frames=frames if _promises_frames(name, extra) else None,
        fps=fps,
        one_at_a_time=name in ONE_AT_A_TIME,
        notes=notes | {"seed": seed},
    )


def _cut_notes(
    request: PipelineRequest, pipeline: Any, shared: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Say how many tokens of the prompts the model does not read, by tokenizer."""
    usual = accepted[LENGTH_ARGUMENT].default if LENGTH_ARGUMENT in accepted else None
    length = shared.get(LENGTH_ARGUMENT, usual)
    readers = readers_of(getattr(pipeline, "components", {}), length if isinstance(length, int) else None)
    found = {
        "prompt_tokens_cut": count_cut(request.prompt or "", readers),
        "negative_prompt_tokens_cut": count_cut(request.negative_prompt or "", readers),
    }
    return {name: cut for name, cut in found.items() if cut}


def size_arguments(
    name: str,
    accepted: Mapping[str, inspect.Parameter],
    names: Mapping[str, str],
    size: tuple[int, int],
    *,
    exact: bool,
) -> dict[str, Any]:
    """Return the arguments of a call that ask for a size; `exact` where the user did, not only the input image."""
    width, height = size
    found = {names["width"]: width, names["height"]: height}
    if exact:
        found |= {key: width * height if value == "area" else value for key, value in EXACT_SIZE.get(name, {}).items()}
    return {key: value for key, value in found.items() if key in accepted}


def size_multiple(pipeline: Any) -> int:
    """Return what width and height must be a multiple of: the VAE's factor, times the patch of a transformer."""
    factor = _first_of(pipeline, _SPATIAL_FACTORS) or 8
    processor = getattr(pipeline, "image_processor", None) or getattr(pipeline, "video_processor", None)
    configured = getattr(getattr(processor, "config", None), "vae_scale_factor", factor)
    if configured > factor:  # the processor's factor has the patch in it (Flux, Qwen-Image, Z-Image)
        return int(configured)
    patch = getattr(getattr(getattr(pipeline, "transformer", None), "config", None), "patch_size", 1)
    if isinstance(patch, Sequence):
        patch = patch[-1]
    return int(factor) * (patch if isinstance(patch, int) else 1)


def sampling_arguments(
    request: PipelineRequest, accepted: Mapping[str, inspect.Parameter], name: str, rename: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate steps, guidance and strength; the notes say what is used, defaults of the pipeline included."""
    defaults = {key: parameter.default for key, parameter in accepted.items()}
    wanted = {
        rename.get("steps", "num_inference_steps"): ("steps", request.steps),
        guidance_argument(defaults, rename): ("guidance_scale", request.guidance_scale),
    }
    if isinstance(request, ImageEditRequest):
        wanted[rename.get("strength", "strength")] = ("strength", request.strength)
    shared: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for argument, (field_name, value) in wanted.items():
        if value is not None:
            if argument not in accepted:
                raise GenerationError(f"{field_name}: {name} takes none")
            shared[argument] = notes[field_name] = value
        elif argument in accepted and isinstance(accepted[argument].default, int | float):
            shared[argument] = notes[field_name] = accepted[argument].default
    _check_strength(shared)
    return shared, notes


def _check_strength(shared: Mapping[str, Any]) -> None:
    steps, strength = shared.get("num_inference_steps"), shared.get("strength")
    if steps is not None and strength is not None and int(steps * strength) < 1:
        enough = f"at least {math.ceil(100 / steps) / 100}" + (
            f", or {math.ceil(1 / strength)} steps" if strength else ""
        )
        raise GenerationError(f"strength: {strength} of {steps} steps leaves none ({enough})")


def _images(
    request: PipelineRequest, multiple: int, notes: dict[str, Any]
) -> tuple[Image.Image | None, Image.Image | None, tuple[int, int] | None]:
    """Return input image, mask and size; the images are made as large as the output, which must be a multiple."""
    for side in ("width", "height"):
        _check_side(side, getattr(request, side), multiple)
    width, height = request.width, request.height
    if not isinstance(request, ImageEditRequest | ImageToVideoRequest):
        if (width is None) != (height is None):
            raise GenerationError("width and height: give both or neither")
        return None, None, (width, height) if width is not None and height is not None else None
    image = read_picture(request.image)
    size = (width or image.width // multiple * multiple, height or image.height // multiple * multiple)
    if 0 in size:
        raise GenerationError(f"input image: {image.width}x{image.height} is smaller than {multiple} pixels a side")
    if image.size != size:
        notes["input_resized_from"] = list(image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    mask = None
    if isinstance(request, ImageEditRequest) and request.mask is not None:
        mask = read_mask(request.mask)
        mask = mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)
    return image, mask, size


def _check_side(side: str, value: int | None, multiple: int) -> None:
    if value is not None and (value < multiple or value % multiple):
        below = max(multiple, value // multiple * multiple)
        raise GenerationError(f"{side}: {value} is not a multiple of {multiple} (nearest: {below}, {below + multiple})")


def _check_size(name: str, asked: tuple[int, int] | None) -> None:
    """Refuse a size that the pipeline would change."""
    rule = OUTPUT_SIZES.get(name)
    if rule is not None and asked is not None and (said := rule.problem(*asked)):
        raise GenerationError(f"width and height: {name}: {said}")


def _checked_frames(frames: int, pipeline: Any, extra: Mapping[str, Any]) -> int:
    name = type(pipeline).__name__
    fixed, unless = FIXED_FRAMES.get(name, (frames, ""))
    if frames != fixed and not extra.get(unless):
        raise GenerationError(f"num_frames: {name} makes {fixed}, not {frames} (or set extra.{unless}: true)")
    accepted = inspect.signature(type(pipeline).__call__).parameters
    defaults = {key: parameter.default for key, parameter in accepted.items()}
    step, rest = frame_step(name, defaults | dict(extra), _first_of(pipeline, _TEMPORAL_FACTORS) or 1)
    if frames < 1 or (frames - rest) % step:
        below = max(rest or step, (frames - rest) // step * step + rest)
        plus = f" plus {rest}" if rest else ""
        raise GenerationError(f"num_frames: {frames} is not {step} times n{plus} (nearest: {below}, {below + step})")
    return frames


def _promises_frames(name: str, extra: Mapping[str, Any]) -> bool:
    return name not in OTHER_FRAMES and not (name in FIXED_FRAMES and extra.get(FIXED_FRAMES[name][1]))


def _first_of(pipeline: Any, attributes: Sequence[str]) -> int | None:
    found = (getattr(pipeline, attribute, None) for attribute in attributes)
    return next((int(value) for value in found if isinstance(value, int | float) and value), None)


def _fps(
    request: VideoGenerationRequest | ImageToVideoRequest, accepted: Mapping[str, inspect.Parameter], argument: str
) -> float:
    """Return the frame rate: the request's, else the one that the pipeline conditions on, else ours."""
    usual = accepted[argument].default if argument in accepted else None
    return request.fps or (round(usual) if isinstance(usual, int | float) and usual >= 1 else DEFAULT_FPS)


def _taken(argument: str, field_name: str, accepted: Mapping[str, inspect.Parameter], name: str) -> str:
    if argument not in accepted:
        raise GenerationError(f"{field_name}: {name} takes none")
    return argument


def _check_required(accepted: Mapping[str, inspect.Parameter], given: set[str], name: str) -> None:
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for argument, parameter in accepted.items():
        if argument not in given and parameter.kind in plain and parameter.default is inspect.Parameter.empty:
            raise GenerationError(f"extra.{argument}: {name} needs it, and no field of a request gives it")


def _checked_seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise GenerationError(f"seed: {seed} is not in 0 … 2**64 - 1")
    return seed


def check_extra(extra: Mapping[str, Any], takes: set[str], name: str) -> None:
    """Refuse keys that a pipeline does not take, and numbers that are none.

    Raises:
        GenerationError: with the key that is meant, or those there are.
    """
    allowed = sorted(takes)
    for key, value in extra.items():
        if key not in allowed and not (takes_loras(key) and LORA_KEYS[0] in allowed):
            hint = hint_for(key, allowed, f"{name} takes: {', '.join(allowed)}")
            raise GenerationError(f"extra.{key}: unknown ({hint})")
        if isinstance(value, float) and not math.isfinite(value):
            raise GenerationError(f"extra.{key}: {value} is not a finite number")


def extra_arguments(extra: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return `extra` with tuples where a pipeline takes no list, as SDXL's `original_size`: JSON has lists alone."""
    found = dict(extra)
    for key, value in extra.items():
        form = str(accepted[key].annotation).lower() if key in accepted else ""
        if isinstance(value, list) and "tuple" in form and "list" not in form:
            found[key] = tuple(value)
    return found


def request_loras(extra: dict[str, Any], config: HuggingFaceDiffusersBackendConfig) -> tuple[LoraAdapter, ...]:
    """Take what a request says of its adapters out of its `extra`, and return those that act on it.

    Raises:
        GenerationError: it says what are no adapters.
    """
    form = "{source, scale, weight_name, subfolder}"
    return take_loras(extra, config.loras, config.lora_sets, lambda entry: LoraAdapter(**entry), form)


def request_scheduler(extra: dict[str, Any], default: Any) -> SchedulerChoice | None:
    """Take the scheduler of one request out of its `extra`; null there asks for the model's own.

    Raises:
        GenerationError: it is neither a name nor a mapping of name and settings.
    """
    value = extra.pop("scheduler", default)
    try:
        return None if value is None else read_scheduler(value)
    except ValueError as exc:
        raise GenerationError(f"extra.scheduler: {exc}") from exc


def _request_denoiser(extra: dict[str, Any], default: str | None) -> str | None:
    """Take `rapid_aio_repo` out of a request's `extra`; null there asks for the model's own transformer."""
    source = extra.pop("rapid_aio_repo", default)
    if source is not None and not (isinstance(source, str) and source):
        raise GenerationError(f"extra.rapid_aio_repo: {source!r} is not a folder or hub id")
    return source
