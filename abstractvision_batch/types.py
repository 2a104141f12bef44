"""Requests, generated assets and the five tasks: the records that cross every boundary of the library.

A request names its parameters as the specs and the manifest do (`steps`, `guidance_scale`, ...); a backend translates
them once, at its edge. Field order is the older library's positional order; new fields are keyword-only.

Not covered: artifact references and stores (`artifacts`), encoding (`media`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Task = Literal["text_to_image", "image_to_image", "text_to_video", "image_to_video", "multi_view_image"]
TASKS: tuple[Task, ...] = get_args(Task)

#: How an input picture comes to a size of another aspect than its own.
Fit = Literal["error", "crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

#: Fields of requests for pictures beyond `image`, `mask` and `reference_image`, which every backend knows.
MORE_PICTURES = ("images", "last_image", "control")

#: Uncompressed RGB pixels (binary PPM, P6). `generate_batch` may answer with it, so that whoever stores the asset
#: encodes it away from the GPU; the single-asset methods never do.
RAW_RGB_MIME_TYPE = "image/x-portable-pixmap"


@dataclass(frozen=True)
class VisionBackendCapabilities:
    """What a configured backend can do. `None` in a field means no known limit."""

    supported_tasks: list[str] | None = None
    supports_mask: bool | None = None
    max_width: int | None = None
    max_height: int | None = None
    max_fps: int | None = None
    max_frames: int | None = None
    pictures: tuple[str, ...] = ()
    """Which of `MORE_PICTURES` it takes; a backend that does not say so would ignore them, so it is given none."""


@dataclass(frozen=True)
class ImageGenerationRequest:
    """One text_to_image request. Sizes in pixels; `control` are encoded files, one for each ControlNet."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    control: tuple[bytes, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class ImageEditRequest:
    """One image_to_image request. `image` and `mask` are encoded files (PNG, JPEG, WebP); white mask pixels change.

    `images` are further reference pictures, which follow `image` in their order; `control` is one for each ControlNet.
    """

    prompt: str
    image: bytes = b""
    mask: bytes | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    width: int | None = field(default=None, kw_only=True)
    height: int | None = field(default=None, kw_only=True)
    strength: float | None = field(default=None, kw_only=True)
    images: tuple[bytes, ...] = field(default=(), kw_only=True)
    control: tuple[bytes, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class MultiAngleRequest:
    """One multi_view_image request: the same subject seen from each of `angles`."""

    prompt: str
    reference_image: bytes | None = None
    angles: tuple[str, ...] = ("front", "three_quarter", "side", "back")
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    width: int | None = field(default=None, kw_only=True)
    height: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class VideoGenerationRequest:
    """One text_to_video request. `fps` in frames per second of the written file."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageToVideoRequest:
    """One image_to_video request. `image` is an encoded file, the first frame; `last_image` one of the last frame."""

    image: bytes
    prompt: str | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    last_image: bytes | None = field(default=None, kw_only=True)


VisionRequest = (
    ImageGenerationRequest | ImageEditRequest | MultiAngleRequest | VideoGenerationRequest | ImageToVideoRequest
)

TASK_OF_REQUEST: dict[type, Task] = {
    ImageGenerationRequest: "text_to_image",
    ImageEditRequest: "image_to_image",
    MultiAngleRequest: "multi_view_image",
    VideoGenerationRequest: "text_to_video",
    ImageToVideoRequest: "image_to_video",
}


@dataclass(frozen=True)
class GeneratedAsset:
    """One generated image or video: encoded bytes, their MIME type and what the backend knows of them."""

    media_type: str
    data: bytes
    mime_type: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProviderModelInfo:
    """One entry of a provider's model catalog."""

    id: str
    object: str | None = None
    created: int | None = None
    owned_by: str | None = None
    capabilities: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)
