"""What the official image and video endpoints accept, as far as a client can get it wrong.

Each check returns what the API would complain about as (message, parameter, code), or None. `extended` also allows what
local servers add.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from abstractvision_batch.media.probe import sniff_mime_type

MAX_PROMPT = 32_000
Complaint = tuple[str, str, str]

EXTENSIONS: dict[str, type | tuple[type, ...]] = {
    "negative_prompt": str,
    "seed": int,
    "steps": int,
    "num_inference_steps": int,
    "guidance_scale": (int, float),
    "strength": (int, float),
    "width": int,
    "height": int,
    "num_frames": int,
    "fps": int,
    "response_format": str,
}
_IMAGE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "prompt": str,
    "model": str,
    "n": int,
    "size": str,
    "quality": str,
    "output_format": str,
    "output_compression": int,
    "background": str,
    "moderation": str,
    "stream": bool,
    "partial_images": int,
    "user": str,
    "safety_identifier": str,
}
_WORDS = {
    "quality": ("low", "medium", "high", "auto", "xhigh", "max", "standard", "hd"),
    "output_format": ("png", "jpeg", "webp", "gif", "svg"),
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "input_fidelity": ("high", "low"),
    "response_format": ("url", "b64_json"),
}
_RANGES: dict[str, tuple[int, int]] = {"n": (1, 10), "output_compression": (0, 100), "partial_images": (0, 3)}
_VIDEO_SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
_GPT_IMAGE_1_SIZES = ("1024x1024", "1536x1024", "1024x1536", "auto")


@dataclass(frozen=True)
class FormFile:
    name: str
    filename: str
    mime_type: str | None
    content: bytes


def check_generation(fields: Mapping[str, Any], *, extended: bool) -> Complaint | None:
    allowed = dict(_IMAGE_FIELDS)
    if str(fields.get("model", "")).startswith("dall-e"):
        allowed |= {"response_format": str, "style": str}
    return _first(_plain(fields, allowed | (EXTENSIONS if extended else {}), extended=extended))


def check_edit(fields: Mapping[str, Any], files: list[FormFile], *, extended: bool) -> Complaint | None:
    allowed = {**_IMAGE_FIELDS, "input_fidelity": str} | (EXTENSIONS if extended else {})
    return _first((*_plain(fields, allowed, extended=extended), *_edit_files(files)))


def check_video(fields: Mapping[str, Any], files: list[FormFile], *, extended: bool) -> Complaint | None:
    allowed: dict[str, type | tuple[type, ...]] = {"prompt": str, "model": str, "seconds": str, "size": str}
    return _first(_video(fields, files, allowed | (EXTENSIONS if extended else {}), extended=extended))


def form_value(text: str, expected: type | tuple[type, ...]) -> Any:
    """A form's text as the type that the field has; unchanged where it does not read as one."""
    if expected is bool:
        return {"true": True, "false": False}.get(text, text)
    if expected is str:
        return text
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if expected is not int and re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else text


def typed_form(fields: Mapping[str, str]) -> dict[str, Any]:
    types = {**_IMAGE_FIELDS, **EXTENSIONS}
    return {name: form_value(text, types.get(name, str)) for name, text in fields.items()}


def _plain(
    fields: Mapping[str, Any], allowed: Mapping[str, type | tuple[type, ...]], *, extended: bool
) -> Iterator[Complaint]:
    if not isinstance(fields.get("prompt"), str) or not fields["prompt"]:
        yield "Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter"
    elif len(fields["prompt"]) > MAX_PROMPT:
        yield f"'prompt' is longer than {MAX_PROMPT}.", "prompt", "string_above_max_length"
    for name, value in fields.items():
        if name not in allowed:
            yield f"Unknown parameter: '{name}'.", name, "unknown_parameter"
        elif not isinstance(value, allowed[name]) or (isinstance(value, bool) and allowed[name] is not bool):
            yield f"Invalid type for '{name}': {value!r}.", name, "invalid_type"
        elif name in _WORDS and value not in _WORDS[name]:
            yield f"Invalid value for '{name}': {value!r}.", name, "invalid_value"
        elif name in _RANGES and not _RANGES[name][0] <= int(str(value)) <= _RANGES[name][1]:
            yield f"'{name}' is out of range: {value}.", name, "invalid_value"
    if isinstance(fields.get("size"), str) and not extended:
        yield from _size(fields["size"], str(fields.get("model", "")))


def _size(size: str, model: str) -> Iterator[Complaint]:
    if size == "auto":
        return
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if not found:
        yield f"Invalid size: {size!r}.", "size", "invalid_value"
        return
    width, height = int(found[1]), int(found[2])
    if model.startswith(("gpt-image-2", "openai/gpt-image-2")):
        wrong = width % 16 or height % 16 or not 1 / 3 <= width / height <= 3 or max(width, height) > 3840
    else:
        wrong = size not in _GPT_IMAGE_1_SIZES
    if wrong:
        yield f"Invalid size for {model}: {size}.", "size", "invalid_value"


def _edit_files(files: list[FormFile]) -> Iterator[Complaint]:
    images = [file for file in files if file.name in ("image", "image[]")]
    masks = [file for file in files if file.name == "mask"]
    if not 1 <= len(images) <= 16:
        yield f"{len(images)} images.", "image", "invalid_image_count"
        return
    if len(images) > 1 and any(file.name == "image" for file in images):
        yield "Several files under 'image' (use 'image[]').", "image", "duplicate_parameter"
    for file in images:
        actual = sniff_mime_type(file.content)
        if actual not in ("image/png", "image/jpeg", "image/webp") or actual != file.mime_type:
            yield f"{file.filename} is {actual} and says {file.mime_type}.", "image", "invalid_image_file"
    for file in masks:
        mask = Image.open(io.BytesIO(file.content))
        if sniff_mime_type(file.content) != "image/png" or "A" not in mask.getbands():
            yield "The mask is no PNG with an alpha channel.", "mask", "invalid_mask_image_format"
        elif mask.size != Image.open(io.BytesIO(images[0].content)).size:
            yield "Mask and image differ in size.", "mask", "invalid_mask_image_size"
    for file in files:
        if file.name not in ("image", "image[]", "mask"):
            yield f"Unknown parameter: '{file.name}'.", file.name, "unknown_parameter"


def _video(
    fields: Mapping[str, Any],
    files: list[FormFile],
    allowed: Mapping[str, type | tuple[type, ...]],
    *,
    extended: bool,
) -> Iterator[Complaint]:
    yield from _plain(fields, allowed, extended=True)
    if not extended and fields.get("seconds", "4") not in ("4", "8", "12"):
        yield f"Invalid value for 'seconds': {fields['seconds']!r}.", "seconds", "invalid_value"
    if not extended and fields.get("size", "720x1280") not in _VIDEO_SIZES:
        yield f"Invalid size: {fields['size']!r}.", "size", "invalid_value"
    for file in files:
        if file.name != "input_reference":
            yield f"Unknown parameter: '{file.name}'.", file.name, "unknown_parameter"
        elif sniff_mime_type(file.content) != file.mime_type:
            yield "input_reference is not what it says.", file.name, "invalid_image_file"


def _first(complaints: Iterator[Complaint] | tuple[Complaint, ...]) -> Complaint | None:
    return next(iter(complaints), None)
