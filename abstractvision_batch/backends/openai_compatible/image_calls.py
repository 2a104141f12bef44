"""Requests for images as calls: `/images/generations` as JSON, `/images/edits` as a form.

The official API knows no seed, steps or negative prompt; what a shape has no place for is named in `Call.not_sent`.

Not covered: videos (`video_calls`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig, Shape
from abstractvision_batch.backends.openai_compatible.form import Call
from abstractvision_batch.backends.openai_compatible.input_images import read_images, read_mask
from abstractvision_batch.backends.openai_compatible.sd_server import PLACES, prompt_with_arguments
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.types import ImageEditRequest, ImageGenerationRequest, VisionRequest

#: Parameters beyond the official API, under the names that a local server is told unless `field_names` says otherwise.
EXTENSIONS = ("negative_prompt", "seed", "steps", "guidance_scale", "strength", "num_frames", "fps")
#: Never in `extra`: what to write instead.
_RESERVED = {
    "prompt": "the prompt is the request's own",
    "model": "backend.served_model names it",
    "image": "the image is the request's own; more go to extra.images",
    "mask": "the mask is the request's own",
}


def image_generation_call(
    request: ImageGenerationRequest, config: OpenAICompatibleBackendConfig, *, several: bool = False
) -> Call:
    """A text_to_image call; more than one image only if `several`."""
    size = size_of(request, config)
    extra, images = checked_extra(request, several=several)
    own, not_sent = extension_fields(request, config)
    prompt, extra = prompt_and_extra(request, extra, config)
    fields: dict[str, Any] = {"prompt": prompt, "n": images, **model_field(config)}
    if config.family == "dall-e" or config.shape == "extended":
        fields["response_format"] = "b64_json"
    if size is not None:
        fields["size"] = size
        if config.shape == "extended":
            fields |= {"width": request.width, "height": request.height}
    fields |= own | extra
    if config.family == "gpt-image":
        fields.pop("response_format", None)  # always base64, and refused as unknown
    return Call(
        "text_to_image",
        config.image_generations_path,
        fields,
        images=images,
        seed=seed_of(request, fields, config.shape),
        not_sent=not_sent,
    )


def image_edit_call(request: ImageEditRequest, config: OpenAICompatibleBackendConfig, *, several: bool = False) -> Call:
    """An image_to_image call.

    Raises:
        GenerationError: the image or the mask is unreadable, or a parameter cannot be sent.
    """
    size = size_of(request, config)
    extra, images = checked_extra(request, several=several)
    own, not_sent = extension_fields(request, config)
    image, uploads = read_images(
        request.image, request.extra, field="image[]" if config.family == "gpt-image" else "image"
    )
    if request.mask is not None:
        uploads.append(read_mask(request.mask, image))
    prompt, extra = prompt_and_extra(request, extra, config)
    fields: dict[str, Any] = {"prompt": prompt, **model_field(config)}
    if images > 1:
        fields["n"] = images
    if size is not None:
        fields["size"] = size
    fields |= own | {name: value for name, value in extra.items() if name not in ("n", "images")}
    if config.family == "gpt-image":
        fields.pop("response_format", None)
    return Call(
        "image_to_image",
        config.image_edits_path,
        fields,
        as_form=True,
        uploads=tuple(uploads),
        images=images,
        seed=seed_of(request, fields, config.shape),
        not_sent=not_sent,
    )


def model_field(config: OpenAICompatibleBackendConfig) -> dict[str, str]:
    """The model, unless the server is to choose."""
    return {"model": config.model_id} if config.model_id else {}


def extension_fields(
    request: VisionRequest, config: OpenAICompatibleBackendConfig
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the request says beyond the official API, by the server's names; and what this shape has no place for."""
    given = {name: getattr(request, name) for name in EXTENSIONS if getattr(request, name, None) is not None}
    if config.shape == "extended":
        return {config.field_names.get(name, name): value for name, value in given.items()}, ()
    in_prompt = PLACES if config.shape == "sd_server" else {}
    return {}, tuple(name for name in given if name not in in_prompt)


def prompt_and_extra(
    request: VisionRequest, extra: dict[str, Any], config: OpenAICompatibleBackendConfig
) -> tuple[str, dict[str, Any]]:
    """The prompt and further fields; sd-server's parameters are in the prompt, which it reads them from alone."""
    if config.shape == "sd_server":
        return prompt_with_arguments(request, extra)
    return request.prompt or "", extra


def size_of(request: VisionRequest, config: OpenAICompatibleBackendConfig) -> str | None:
    """`WIDTHxHEIGHT`, or None where the request leaves it to the server.

    Raises:
        GenerationError: only one side is given, or `extra.size` says something else.
    """
    width, height = getattr(request, "width", None), getattr(request, "height", None)
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise GenerationError(f"openai: width {width} and height {height}: a size has both (give both, or neither)")
    if "size" in request.extra:
        raise GenerationError("openai: extra.size: width and height are given too (leave one of them out)")
    return f"{width}{config.size_separator}{height}"


def checked_extra(request: VisionRequest, *, several: bool) -> tuple[dict[str, Any], int]:
    """`extra` as further fields, and how many images are wanted.

    Raises:
        GenerationError: a name is reserved, the reply would be a stream, or more images are wanted than are kept.
    """
    extra: Mapping[str, Any] = request.extra
    for name, instead in _RESERVED.items():
        if name in extra:
            raise GenerationError(f"openai: extra.{name}: cannot be set there ({instead})")
    if extra.get("stream"):
        raise GenerationError("openai: extra.stream: streamed replies are not read (leave it out)")
    images = extra.get("n", 1)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise GenerationError(f"openai: extra.n: {images!r} is not a number of images")
    if images > 1 and not several:
        raise GenerationError(
            f"openai: extra.n: {images} images where one is kept "
            "(in a job: samples_per_prompt; in Python: generate_images)"
        )
    return {name: value for name, value in extra.items() if value is not None}, images


def seed_of(request: VisionRequest, fields: Mapping[str, Any], shape: Shape) -> int | None:
    """The seed that the server is told, wherever it stands."""
    if shape == "sd_server":
        return request.seed
    if shape == "extended" and request.seed is not None:
        return request.seed
    seed = fields.get("seed")
    return seed if isinstance(seed, int) else None
