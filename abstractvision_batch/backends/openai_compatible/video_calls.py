"""Requests for videos as calls: to a configured path, or as the job of an OpenAI-style `/videos`.

Not covered: polling a job (`video_jobs`), images (`image_calls`).
"""

from __future__ import annotations

import base64
from fractions import Fraction
from typing import Any

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.form import Call, Upload
from abstractvision_batch.backends.openai_compatible.image_calls import (
    checked_extra,
    extension_fields,
    model_field,
    seed_of,
    size_of,
)
from abstractvision_batch.backends.openai_compatible.input_images import read_images
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.types import TASK_OF_REQUEST, ImageToVideoRequest, VideoGenerationRequest


def video_call(request: VideoGenerationRequest | ImageToVideoRequest, config: OpenAICompatibleBackendConfig) -> Call:
    """A text_to_video or image_to_video call.

    Raises:
        GenerationError: the image is unreadable, or a parameter cannot be sent.
    """
    extra, _ = checked_extra(request, several=False)
    upload = None
    if isinstance(request, ImageToVideoRequest):
        _, uploads = read_images(request.image, {}, field="image")
        upload = uploads[0]
    build = _job_call if config.video_mode == "videos_api" else _path_call
    return build(request, config, extra, upload)


def _job_call(
    request: VideoGenerationRequest | ImageToVideoRequest,
    config: OpenAICompatibleBackendConfig,
    extra: dict[str, Any],
    upload: Upload | None,
) -> Call:
    """A form always, as the official client sends it."""
    size = size_of(request, config)
    own, not_sent = extension_fields(request, config)
    fields: dict[str, Any] = {"prompt": request.prompt or "", **model_field(config)}
    if size is not None:
        fields["size"] = size
        if config.shape == "extended":
            fields |= {"width": request.width, "height": request.height}
    if config.shape != "extended" and "seconds" not in extra and request.num_frames is not None:
        fields["seconds"] = _whole_seconds(request)
        not_sent = tuple(name for name in not_sent if name not in ("num_frames", "fps"))
    fields |= own | {name: value for name, value in extra.items() if name != "n"}
    if "seconds" in fields:
        fields["seconds"] = str(fields["seconds"])  # the API has it as text
    files = () if upload is None else (Upload("input_reference", upload.filename, upload.content, upload.mime_type),)
    return Call(
        TASK_OF_REQUEST[type(request)],
        config.videos_path,
        fields,
        as_form=True,
        uploads=files,
        seed=seed_of(request, fields, config.shape),
        not_sent=not_sent,
    )


def _path_call(
    request: VideoGenerationRequest | ImageToVideoRequest,
    config: OpenAICompatibleBackendConfig,
    extra: dict[str, Any],
    upload: Upload | None,
) -> Call:
    """A custom path has no official shape, so everything is sent by its own name."""
    fields: dict[str, Any] = {"prompt": request.prompt} if request.prompt is not None else {}
    fields |= model_field(config)
    for name in ("negative_prompt", "width", "height", "fps", "num_frames", "seed", "steps", "guidance_scale"):
        if (value := getattr(request, name)) is not None:
            fields[config.field_names.get(name, name)] = value
    as_form = upload is not None and config.image_to_video_mode == "multipart"
    if not as_form:
        fields |= {"n": 1, "response_format": "b64_json"}
    if upload is not None and not as_form:
        fields["image_b64"] = base64.b64encode(upload.content).decode()
    path = config.image_to_video_path if upload is not None else config.text_to_video_path
    return Call(
        TASK_OF_REQUEST[type(request)],
        path or "",
        fields | extra,
        as_form=as_form,
        uploads=(upload,) if as_form and upload is not None else (),
        seed=request.seed,
    )


def _whole_seconds(request: VideoGenerationRequest | ImageToVideoRequest) -> str:
    """The official API counts in whole seconds at its own frame rate."""
    if not request.fps:
        raise GenerationError("openai: num_frames without fps: this API wants seconds (give fps, or extra.seconds)")
    seconds = Fraction(request.num_frames or 0, request.fps)
    if seconds.denominator != 1:
        raise GenerationError(
            f"openai: {request.num_frames} frames at {request.fps} per second are {float(seconds):g} s; "
            "this API takes whole seconds (change num_frames, or give extra.seconds)"
        )
    return str(seconds.numerator)
