"""Requests for images as calls: `/images/generations` and `/images/edits`, as JSON or as a form.

Not covered: what parameters are called (`speech`), videos (`video_calls`).
"""

from __future__ import annotations

import base64
from typing import Any

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.form import Call
from abstractvision_batch.backends.openai_compatible.input_images import read_images, read_mask
from abstractvision_batch.backends.openai_compatible.speech import Speech, refuse_ignored, write_parameters
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.types import ImageEditRequest, ImageGenerationRequest


def image_generation_call(request: ImageGenerationRequest, speech: Speech, *, several: bool = False) -> Call:
    """A text_to_image call; more than one image only if `several`.

    Raises:
        GenerationError: a parameter cannot be sent, or the server would ignore it.
    """
    endpoint = speech.dialect.generations
    written = write_parameters(request, endpoint, speech, several=several)
    fields = {"prompt": written.prompt, "n": written.images, **model_field(speech.config), **written.fields}
    path = endpoint.path or speech.config.image_generations_path
    return Call("text_to_image", path, fields, written=written)


def image_edit_call(request: ImageEditRequest, speech: Speech, *, several: bool = False) -> Call:
    """An image_to_image call.

    Raises:
        GenerationError: the image or the mask is unreadable, a parameter cannot be sent, or the server would ignore it.
    """
    endpoint = speech.dialect.edits
    written = write_parameters(request, endpoint, speech, several=several)
    one = "image[]" if speech.config.family == "gpt-image" else endpoint.image
    image, uploads = read_images(request.image, request.extra, field=one)
    fields: dict[str, Any] = {"prompt": written.prompt, **model_field(speech.config)}
    if written.images > 1:
        fields["n"] = written.images
    fields |= written.fields
    if request.mask is not None:
        if endpoint.mask is None:
            raise refuse_ignored("mask", request, speech)
        uploads.append(read_mask(request.mask, image, field=endpoint.mask))
    path = endpoint.path or speech.config.image_edits_path
    if endpoint.form == "always":
        return Call("image_to_image", path, fields, as_form=True, uploads=tuple(uploads), written=written)
    if len(uploads) > 1:
        raise GenerationError(f"openai: extra.images: {speech.dialect.title} takes one input image (leave it out)")
    fields[endpoint.image] = base64.b64encode(uploads[0].content).decode()
    return Call("image_to_image", path, fields, written=written)


def model_field(config: OpenAICompatibleBackendConfig) -> dict[str, str]:
    """The model, unless the server is to choose."""
    return {"model": config.model_id} if config.model_id else {}
