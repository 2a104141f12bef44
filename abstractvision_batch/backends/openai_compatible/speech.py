"""A request's parameters as one kind of server reads them; what it would ignore is refused, not dropped.

Left out and named in `not_sent` is only what nobody asked for (a card's default), and, at OpenAI itself, what its API
has no place for.

Not covered: the calls around them (`image_calls`, `video_calls`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.backends.base_backend import refuse_unread
from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.dialect_check import beyond_limits, ignored, unread_extra
from abstractvision_batch.backends.openai_compatible.dialects import CALL_EXTRAS, EXTENSIONS, Dialect, Endpoint
from abstractvision_batch.backends.openai_compatible.sd_server import KNOWN, OF_THE_CALL, prompt_with_arguments
from abstractvision_batch.errors import GenerationError
from abstractvision_batch.types import TASK_OF_REQUEST, VisionRequest

#: Never in `extra`: what to write instead.
_RESERVED = {
    "prompt": "the prompt is the request's own",
    "model": "backend.served_model names it",
    "image": "the image is the request's own; more go to extra.images",
    "mask": "the mask is the request's own",
}
_MIME_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


@dataclass(frozen=True, slots=True)
class Speech:
    """How one server is spoken to."""

    config: OpenAICompatibleBackendConfig
    dialect: Dialect
    unasked: Mapping[str, Any] = field(default_factory=dict)
    """Values that a request may have without anybody having asked for them; None where it may be any."""

    def field_of(self, name: str, endpoint: Endpoint) -> str | None:
        """The server's field of a parameter; None where it has none."""
        named = self.config.request_shape is None or not self.dialect.lenient  # a shape `openai` never looked at them
        if named and name in self.config.field_names:
            return self.config.field_names[name]
        if name == "guidance_scale" and name in endpoint.names and self._guides_by_true_cfg:
            return "true_cfg_scale"
        return endpoint.names.get(name)

    def is_unasked(self, name: str, value: Any) -> bool:
        """Whether nobody asked for this value."""
        return name in self.unasked and self.unasked[name] in (None, value)

    @property
    def _guides_by_true_cfg(self) -> bool:
        models = f"{self.config.model_id} {self.config.card_id}".lower()
        return any(part in models for part in self.dialect.true_cfg)


@dataclass(frozen=True, slots=True)
class Written:
    """A request's parameters, written."""

    prompt: str
    fields: dict[str, Any]
    images: int
    """How many are wanted."""
    seed: int | None
    """As sent; None if the server is not told."""
    not_sent: tuple[str, ...]
    size: tuple[int, int] | None
    """Width and height as asked for."""
    mime_type: str | None
    """As asked for."""


def write_parameters(request: VisionRequest, endpoint: Endpoint, speech: Speech, *, several: bool) -> Written:
    """The prompt, and every field but the prompt, the model and the images.

    Raises:
        GenerationError: the server would ignore, refuse or cut down something; or a value cannot be sent.
    """
    refuse_unread(request, ())
    extra, images = check_extra(request, several=several)
    size = _size_of(request)
    own, not_sent, in_prompt = _write_extensions(request, endpoint, speech)
    prompt = request.prompt or ""
    if endpoint.arguments_in_prompt:
        read = (*KNOWN, *OF_THE_CALL)
        dropped = tuple(name for name, value in extra.items() if name not in read and speech.is_unasked(name, value))
        arguments = {name: value for name, value in extra.items() if name not in dropped}
        prompt, beside = prompt_with_arguments(request, arguments)
        kept, _ = _write_extra(beside, endpoint, speech)
    else:
        prompt = _with_negative(prompt, in_prompt, endpoint, speech)
        kept, dropped = _write_extra(extra, endpoint, speech)
    fields = {**endpoint.asks, **_size_fields(size, endpoint, speech)}
    if endpoint.wrap is None:
        fields |= own | kept
    else:
        beside = {name: value for name, value in kept.items() if name in (*CALL_EXTRAS, "user")}
        inside = own | {name: value for name, value in kept.items() if name not in beside}
        fields |= beside | ({endpoint.wrap: json.dumps(inside, ensure_ascii=False)} if inside else {})
    if speech.config.family == "gpt-image":
        fields.pop("response_format", None)  # always base64, and refused as unknown
    elif speech.config.family == "dall-e" and request.extra.get("response_format") is None:
        fields.setdefault("response_format", "b64_json")
    return Written(
        prompt=prompt,
        fields=fields,
        images=images,
        seed=_seed_of(request, kept, not_sent),
        not_sent=(*not_sent, *dropped),
        size=size,
        mime_type=_MIME_TYPES.get(str(fields.get("output_format")).lower()),
    )


def refuse_ignored(name: str, request: VisionRequest, speech: Speech) -> GenerationError:
    """The error of a parameter that the server would ignore."""
    return GenerationError(f"openai: {ignored(speech.dialect, TASK_OF_REQUEST[type(request)], name)}")


def _write_extensions(
    request: VisionRequest, endpoint: Endpoint, speech: Speech
) -> tuple[dict[str, Any], tuple[str, ...], str | None]:
    """Fields, the names of what is left out, and the negative prompt where it stands in the prompt."""
    fields: dict[str, Any] = {}
    not_sent: list[str] = []
    in_prompt = None
    for name in EXTENSIONS:
        if (value := getattr(request, name, None)) is None:
            continue
        if said := beyond_limits(endpoint, speech.dialect, name, value):
            raise GenerationError(f"openai: {name}: {said}")
        written = speech.field_of(name, endpoint)
        if endpoint.arguments_in_prompt and name in endpoint.names:
            continue
        if written is None and name == "negative_prompt" and endpoint.negative_in_prompt:
            in_prompt = str(value)
        elif written is not None:
            fields[written] = value
        elif speech.dialect.lenient or speech.is_unasked(name, value):
            not_sent.append(name)
        else:
            raise refuse_ignored(name, request, speech)
    return fields, tuple(not_sent), in_prompt


def _write_extra(
    extra: Mapping[str, Any], endpoint: Endpoint, speech: Speech
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Further fields, and the names of those that nobody asked for and the server would drop."""
    if endpoint.extra is None:
        return {name: value for name, value in extra.items() if name not in ("n", "images")}, ()
    known = {*endpoint.extra, *CALL_EXTRAS, *speech.config.known_fields}
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    ours = {written: name for name in EXTENSIONS if (written := speech.field_of(name, endpoint)) is not None}
    for name, value in extra.items():
        if name in ours and name not in known:
            raise GenerationError(f"openai: extra.{name}: is this server's field of {ours[name]} (give {ours[name]})")
        if name in known:
            kept[name] = value
        elif speech.is_unasked(name, value):
            dropped.append(name)
        else:
            raise GenerationError(f"openai: extra.{name}: {unread_extra(speech.dialect, name, known)}")
    return {name: value for name, value in kept.items() if name not in ("n", "images")}, tuple(dropped)


def _with_negative(prompt: str, negative: str | None, endpoint: Endpoint, speech: Speech) -> str:
    separator = endpoint.negative_in_prompt
    if separator is None:
        return prompt
    for name, text in (("prompt", prompt), ("negative_prompt", negative or "")):
        if separator in text:
            raise GenerationError(
                f"openai: {name}: {speech.dialect.title} reads what follows {separator!r} as another prompt "
                "(write it without)"
            )
    return prompt if negative is None else f"{prompt}{separator}{negative}"


def _size_of(request: VisionRequest) -> tuple[int, int] | None:
    width, height = getattr(request, "width", None), getattr(request, "height", None)
    if width is None and height is None:
        return None
    if width is None or height is None:
        raise GenerationError(f"openai: width {width} and height {height}: a size has both (give both, or neither)")
    if "size" in request.extra:
        raise GenerationError("openai: extra.size: width and height are given too (leave one of them out)")
    return width, height


def _size_fields(size: tuple[int, int] | None, endpoint: Endpoint, speech: Speech) -> dict[str, Any]:
    if size is None:
        return {}
    own = speech.config.size_separator
    separator = own if own != "x" else speech.dialect.size_separator
    values = {"size": f"{size[0]}{separator}{size[1]}", "width": size[0], "height": size[1]}
    return {name: values[name] for name in endpoint.sizes}


def check_extra(request: VisionRequest, *, several: bool) -> tuple[dict[str, Any], int]:
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


def _seed_of(request: VisionRequest, extra: Mapping[str, Any], not_sent: Iterable[str]) -> int | None:
    """The seed that the server is told, wherever it stands."""
    if request.seed is not None and "seed" not in not_sent:
        return request.seed
    seed = extra.get("seed")
    return seed if isinstance(seed, int) else None
