"""A request translated: names, sizes and defaults fixed here, so that every mode is asked for the same pixels.

Not covered: running it (`runner`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from abstractvision_batch.backends.base_backend import refuse_unread
from abstractvision_batch.backends.request_loras import take_loras
from abstractvision_batch.backends.stable_diffusion_cpp.config import Lora, StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.fields import OPTIONS
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LinkedLora, LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.options import read_extra
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.media.images import encode_image
from abstractvision_batch.media.inputs import read_mask, read_picture
from abstractvision_batch.storage.file_hashes import hash_file
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
)

SdcppRequest = ImageGenerationRequest | ImageEditRequest | VideoGenerationRequest | ImageToVideoRequest

# The program's own defaults, written out because its three modes do not share them.
DEFAULT_SIDE = 512
DEFAULT_STEPS = 20
DEFAULT_CFG_SCALE = 7.0
DEFAULT_STRENGTH = 0.75
DEFAULT_NUM_FRAMES = 33
DEFAULT_FPS = 16
FRAME_STEP = 4
MAX_SIDE = 16384


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation in the words of `options`, with its images as PNG files of the output's size."""

    values: dict[str, Any]
    images: dict[str, bytes] = field(default_factory=dict)
    """By `init`, `mask` or `reference`."""
    loras: tuple[LinkedLora, ...] = ()
    expected_size: tuple[int, int] | None = None
    """None: the input image's size, rounded as the model wants."""
    fps: float | None = None
    """Of a video; None for an image."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Metadata."""

    @property
    def expected_steps(self) -> int:
        """How many steps are run: an edit skips those that its strength leaves out."""
        steps: int = self.values["steps"]
        strength = self.values.get("strength")
        if "init" not in self.images or self.fps is not None or strength is None or strength >= 1:
            return steps
        kept = int(steps * strength)
        return kept if kept == steps else kept + 1


def prepare_generation(
    request: SdcppRequest, config: StableDiffusionCppBackendConfig, loras: LoraFolder, *, side_multiple: int
) -> Generation:
    """Translate a request for a model that wants sides in multiples; the library would round others up in silence.

    Raises:
        GenerationError: a value, an image or an `extra` key that the library cannot take.
    """
    refuse_unread(request, ())
    video = isinstance(request, VideoGenerationRequest | ImageToVideoRequest)
    extra = dict(request.extra)
    own_loras = take_loras(extra, config.loras, config.lora_sets, _read_lora, "{source, scale}")
    prompt, linked = _prompt_and_loras(request.prompt or "", own_loras, loras)
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": _checked_text("negative_prompt", request)}
    values |= _sampling(request, config) | read_extra(extra, video=video)
    images, size = _images(request, config, side_multiple)
    explicit = request.width is not None or request.height is not None or not images
    values["width"], values["height"] = size
    if isinstance(request, ImageEditRequest) and "init" in images:
        values["strength"] = _checked_strength(request.strength)
    fps = None
    if config.high_noise_diffusion_model is not None:
        values.setdefault("high_noise_cfg_scale", values["cfg_scale"])
    if isinstance(request, VideoGenerationRequest | ImageToVideoRequest):
        values["num_frames"] = _checked_frames(request.num_frames or DEFAULT_NUM_FRAMES)
        fps = request.fps or DEFAULT_FPS
    notes: dict[str, Any] = {
        key: values[key] for key in ("seed", "steps", "cfg_scale", "strength", "guidance") if key in values
    }
    if linked:
        notes["loras"] = [
            {"source": lora.source, "scale": lora.scale, "sha256": hash_file(Path(lora.source))} for lora in linked
        ]
    return Generation(values, images, linked, size if explicit else None, fps, notes)


def _prompt_and_loras(prompt: str, own: tuple[Lora, ...], folder: LoraFolder) -> tuple[str, tuple[LinkedLora, ...]]:
    if "\0" in prompt:
        raise GenerationError("prompt: it has a NUL character")
    text, tagged = folder.read_prompt(prompt)
    return text, folder.link([*own, *tagged])


def _read_lora(entry: Mapping[str, Any]) -> Lora:
    return Lora(str(entry["source"]), float(entry.get("scale", 1.0)))


def _checked_text(name: str, request: SdcppRequest) -> str:
    text = getattr(request, name) or ""
    if "\0" in text:
        raise GenerationError(f"{name}: it has a NUL character")
    return str(text)


def _sampling(request: SdcppRequest, config: StableDiffusionCppBackendConfig) -> dict[str, Any]:
    """Steps, seed, guidance and the configuration's sampler; `extra` may still override the sampler."""
    steps = DEFAULT_STEPS if request.steps is None else request.steps
    if steps < 1:
        raise GenerationError(f"steps: {steps} is not above 0")
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    if not 0 <= seed < 2**63:
        raise GenerationError(f"seed: {seed} is not in 0 … 2**63 - 1")
    values: dict[str, Any] = {"steps": steps, "seed": seed}
    scale = request.guidance_scale
    if scale is not None and not 0 <= scale < 1e6:
        raise GenerationError(f"guidance_scale: {scale} is not a number from 0")
    if config.guidance == "cfg":
        # 0 means without guidance here as in Diffusers; the library reads it as without the prompt
        values["cfg_scale"] = DEFAULT_CFG_SCALE if scale is None else float(scale) or 1.0
    else:
        values["cfg_scale"] = 1.0
        if config.guidance == "distilled" and scale is not None:
            values["guidance"] = float(scale)
    chosen = {name: getattr(config, name) for name, option in OPTIONS.items() if option.place}
    return values | {name: value for name, value in chosen.items() if value is not None and value is not False}


def _images(
    request: SdcppRequest, config: StableDiffusionCppBackendConfig, multiple: int
) -> tuple[dict[str, bytes], tuple[int, int]]:
    """Return the input images as PNG, and the size to ask for: as given, else the input's, else the default."""
    for name in ("width", "height"):
        _check_side(name, getattr(request, name), multiple)
    if not isinstance(request, ImageEditRequest | ImageToVideoRequest):
        return {}, (request.width or DEFAULT_SIDE, request.height or DEFAULT_SIDE)
    image = read_picture(request.image)
    size = (request.width or _rounded(image.width, multiple), request.height or _rounded(image.height, multiple))
    if isinstance(request, ImageEditRequest) and config.image_input == "reference":
        if request.mask is not None or request.strength is not None:
            raise GenerationError("mask and strength: this model edits a reference image (leave them out)")
        if request.width is None and request.height is None and image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        return {"reference": encode_image(image, "png")}, size
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    images = {"init": encode_image(image, "png")}
    if isinstance(request, ImageEditRequest):
        mask = Image.new("L", size, 255)
        if request.mask is not None:
            mask = read_mask(request.mask)
            mask = mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)
        images["mask"] = encode_image(mask, "png")
    return images, size


def _rounded(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _check_side(name: str, value: int | None, multiple: int) -> None:
    if value is not None and (value % multiple or not 0 < value <= MAX_SIDE):
        below = max(multiple, min(value, MAX_SIDE) // multiple * multiple)
        nearest = f"nearest: {below}, {below + multiple}"
        raise GenerationError(f"{name}: {value} is not a multiple of {multiple} up to {MAX_SIDE} ({nearest})")


def _checked_strength(strength: float | None) -> float:
    if strength is None:
        return DEFAULT_STRENGTH
    if not 0 <= strength <= 1:
        raise GenerationError(f"strength: {strength} is not in 0 … 1")
    return float(strength)


def _checked_frames(frames: int) -> int:
    if frames < 1 or (frames - 1) % FRAME_STEP:
        below = max(1, (frames - 1) // FRAME_STEP * FRAME_STEP + 1)
        raise GenerationError(f"num_frames: {frames} is not 4 times n plus 1 (nearest: {below}, {below + FRAME_STEP})")
    return frames
