"""A row of the plan as the request a backend understands, with the bytes of its input images."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from abstractvision_batch.errors import GenerationError, InputImageError, InputUnavailableError, StorageError
from abstractvision_batch.storage.failures import Failure, classify, explain
from abstractvision_batch.storage.urls import WEB, read_url
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
    VisionRequest,
)

LoadBytes = Callable[[str], bytes]


def build_request(row: Mapping[str, Any], load_bytes: LoadBytes) -> VisionRequest:
    """The request that a plan row describes.

    Raises:
        InputImageError: an input image cannot be read any more.
        InputUnavailableError: the web server of an input image fails.
        StorageError: the object store of an input image fails.
        GenerationError: the plan has what no request can say.
    """
    extra = json.loads(row["params_json"] or "{}")
    image = load_bytes(row["input_image"]) if row["input_image"] else None
    shared = {name: row[name] for name in ("negative_prompt", "seed", "steps", "guidance_scale", "width", "height")}
    match row["task"]:
        case "text_to_image":
            return ImageGenerationRequest(prompt=row["prompt"], **shared, extra=extra)
        case "image_to_image":
            mask = load_bytes(row["mask_image"]) if row["mask_image"] else None
            return ImageEditRequest(
                prompt=row["prompt"], image=image or b"", mask=mask, strength=row["strength"], **shared, extra=extra
            )
        case "multi_view_image":
            angles = _angles(extra.pop("angles", None))
            return MultiAngleRequest(prompt=row["prompt"], reference_image=image, angles=angles, **shared, extra=extra)
        case "text_to_video":
            video = {name: row[name] for name in ("fps", "num_frames")}
            return VideoGenerationRequest(prompt=row["prompt"], **shared, **video, extra=extra)
        case "image_to_video":
            video = {name: row[name] for name in ("fps", "num_frames")}
            return ImageToVideoRequest(image=image or b"", prompt=row["prompt"], **shared, **video, extra=extra)
        case task:
            raise GenerationError(f"{row['request_id']}: the plan has an unknown task {task!r}")


def _angles(value: Any) -> tuple[str, ...]:
    if not value:
        return MultiAngleRequest.angles
    if not isinstance(value, list) or not all(isinstance(angle, str) and angle for angle in value):
        raise GenerationError(f"extra.angles: {value!r} is not a list of views (write [front, side])")
    return tuple(value)


class InputImages:
    """Reads input images by path or URL and keeps the last few, which neighbouring requests share."""

    def __init__(self, options: Mapping[str, Any], *, keep: int = 16) -> None:
        self._options = options
        self._keep = keep
        self._cache: dict[str, bytes] = {}
        self._lock = threading.Lock()  # of the cache: shards may run side by side

    def __call__(self, url: str) -> bytes:
        with self._lock:
            if url in self._cache:
                return self._cache[url]
        try:
            data = read_url(url, self._options)
        except Exception as exc:
            match classify(exc):
                case None:
                    raise
                case Failure.TRANSIENT if url.startswith(WEB):  # a host of its own, which may never come back
                    raise InputUnavailableError(f"{url}: {explain(exc, writing=False)}") from exc
                case Failure.TRANSIENT:  # the store is down, not the row wrong
                    raise StorageError(f"{url}: {explain(exc, writing=False)}") from exc
            raise InputImageError(f"{url}: the input image cannot be read: {explain(exc, writing=False)}") from exc
        with self._lock:
            self._cache[url] = data
            while len(self._cache) > self._keep:
                del self._cache[next(iter(self._cache))]
        return data
