"""Requests for videos as calls: to a path of the user's or of the dialect's own, or as a job of `/videos`.

Not covered: polling a job (`video_jobs`), images (`image_calls`), what parameters are called (`speech`).
"""

from __future__ import annotations

import base64
from dataclasses import replace
from fractions import Fraction
from typing import Any

from abstractvision_batch.backends.base_backend import refuse_unread
from abstractvision_batch.backends.openai_compatible.dialects import Endpoint
from abstractvision_batch.backends.openai_compatible.form import Call, Upload
from abstractvision_batch.backends.openai_compatible.image_calls import model_field
from abstractvision_batch.backends.openai_compatible.input_images import read_images
from abstractvision_batch.backends.openai_compatible.speech import Speech, Written, check_extra, write_parameters
from abstractvision_batch.errors import CapabilityNotSupportedError, GenerationError
from abstractvision_batch.media.frame_rates import exact_fps
from abstractvision_batch.types import TASK_OF_REQUEST, ImageToVideoRequest, VideoGenerationRequest


def video_call(request: VideoGenerationRequest | ImageToVideoRequest, speech: Speech) -> Call:
    """A text_to_video or image_to_video call.

    Raises:
        GenerationError: the image is unreadable, a parameter cannot be sent, or the server would ignore it.
        CapabilityNotSupportedError: this kind of server has no way to such a video.
    """
    task = TASK_OF_REQUEST[type(request)]
    config = speech.config
    upload = None
    if isinstance(request, ImageToVideoRequest):
        _, uploads = read_images(request.image, {}, field="image")
        upload = uploads[0]
    if (path := config.video_paths[task]) is not None:
        return _path_call(request, speech, upload, path)
    endpoint = speech.dialect.endpoint(task, job=config.video_mode == "videos_api")
    if endpoint is None:
        raise CapabilityNotSupportedError(
            f"openai: {task}: nothing says how {speech.dialect.title} makes videos "
            "(set text_to_video_path or image_to_video_path, or video_mode: videos_api)"
        )
    return _endpoint_call(request, speech, upload, endpoint)


def _endpoint_call(
    request: VideoGenerationRequest | ImageToVideoRequest, speech: Speech, upload: Upload | None, endpoint: Endpoint
) -> Call:
    """One call to a path of the dialect's own; else the creation of a job."""
    written = write_parameters(request, endpoint, speech, several=False)
    fields: dict[str, Any] = {"prompt": written.prompt, **model_field(speech.config), **written.fields}
    not_sent = written.not_sent
    if speech.dialect.lenient and "seconds" not in fields and request.num_frames is not None:
        fields["seconds"] = _whole_seconds(request)
        not_sent = tuple(name for name in not_sent if name not in ("num_frames", "fps"))
    as_form = endpoint.form == "always" or (endpoint.form == "with_file" and upload is not None)
    if as_form and "seconds" in fields:
        fields["seconds"] = str(fields["seconds"])  # the API has it as text
    uploads: tuple[Upload, ...] = ()
    if upload is not None and as_form:
        uploads = (replace(upload, field=endpoint.image),)
    elif upload is not None:
        fields[endpoint.image] = base64.b64encode(upload.content).decode()
    return Call(
        TASK_OF_REQUEST[type(request)],
        endpoint.path or speech.config.videos_path,
        fields,
        replace(written, not_sent=not_sent),
        as_form=as_form,
        uploads=uploads,
        is_job=not endpoint.path,
    )


def _path_call(
    request: VideoGenerationRequest | ImageToVideoRequest, speech: Speech, upload: Upload | None, path: str
) -> Call:
    """A path of the user's own has no known shape, so everything is sent by its own name."""
    config = speech.config
    refuse_unread(request, ())
    extra, _ = check_extra(request, several=False)
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
    size = None if request.width is None or request.height is None else (request.width, request.height)
    return Call(
        TASK_OF_REQUEST[type(request)],
        path,
        fields | extra,
        Written(request.prompt or "", fields, 1, request.seed, (), size, None),
        as_form=as_form,
        uploads=(upload,) if as_form and upload is not None else (),
    )


def _whole_seconds(request: VideoGenerationRequest | ImageToVideoRequest) -> str:
    """The official API counts in whole seconds at its own frame rate."""
    if not request.fps:
        raise GenerationError("openai: num_frames without fps: this API wants seconds (give fps, or extra.seconds)")
    seconds = Fraction(request.num_frames or 0) / exact_fps(request.fps)
    if seconds.denominator != 1:
        raise GenerationError(
            f"openai: {request.num_frames} frames at {request.fps} per second are {float(seconds):g} s; "
            "this API takes whole seconds (change num_frames, or give extra.seconds)"
        )
    return str(seconds.numerator)
