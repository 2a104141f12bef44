"""A row of the plan as the request a backend understands, with its input images as every backend is to see them.

This is the one place where they are prepared: read again, compared with what was planned, brought to the planned size.
Rows of a plan without `input_fit`, which an earlier version made, get the files as they are.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from abstractvision_batch.errors import GenerationError, InputImageError, InputUnavailableError
from abstractvision_batch.media.frame_rates import tidy_fps
from abstractvision_batch.media.inputs import prepare_mask, prepare_picture
from abstractvision_batch.storage.failures import Failure, classify, explain, storage_error
from abstractvision_batch.storage.json_file import parse_json
from abstractvision_batch.storage.urls import WEB, read_url
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
    VisionRequest,
)

Row = Mapping[str, Any]
#: The encoded image of a row's column `input_image` or `mask_image`.
LoadInput = Callable[[Row, str], bytes]
IMAGE, MASK = "input_image", "mask_image"
#: Columns that hold the SHA-256 of the files.
INPUT_DIGESTS = {IMAGE: "input_sha256", MASK: "mask_sha256"}
#: What `lasting_url` puts in place of parameters that nobody knows.
_CUT = re.compile(r"#[0-9a-f]{12}$")
_GIVE_THE_SPEC = "name the spec in place of the run: signatures stand in its prompts alone"


def build_request(row: Row, load_input: LoadInput) -> VisionRequest:
    """The request that a plan row describes.

    Raises:
        InputImageError: an input image cannot be read any more, was replaced, or is of no use.
        InputUnavailableError: the web server of an input image fails.
        StorageError: the object store of an input image fails.
        GenerationError: the plan has what no request can say.
    """
    try:
        extra = parse_json(row["params_json"] or "{}")
    except ValueError as exc:
        raise GenerationError(f"{row['request_id']}: the plan's params_json is damaged: {exc}") from exc
    if not isinstance(extra, dict):
        raise GenerationError(f"{row['request_id']}: the plan's params_json is no object")
    # A plan of text names no picture; one of a stranger might, of this machine.
    image = load_input(row, IMAGE) if row[IMAGE] and not row["task"].startswith("text_") else None
    shared = {name: row[name] for name in ("negative_prompt", "seed", "steps", "guidance_scale", "width", "height")}
    match row["task"]:
        case "text_to_image":
            return ImageGenerationRequest(prompt=row["prompt"], **shared, extra=extra)
        case "image_to_image":
            mask = load_input(row, MASK) if row[MASK] else None
            return ImageEditRequest(
                prompt=row["prompt"], image=image or b"", mask=mask, strength=row["strength"], **shared, extra=extra
            )
        case "multi_view_image":
            angles = _angles(extra.pop("angles", None))
            return MultiAngleRequest(prompt=row["prompt"], reference_image=image, angles=angles, **shared, extra=extra)
        case "text_to_video":
            video = {"fps": row["fps"] and tidy_fps(row["fps"]), "num_frames": row["num_frames"]}
            return VideoGenerationRequest(prompt=row["prompt"], **shared, **video, extra=extra)
        case "image_to_video":
            video = {"fps": row["fps"] and tidy_fps(row["fps"]), "num_frames": row["num_frames"]}
            return ImageToVideoRequest(image=image or b"", prompt=row["prompt"], **shared, **video, extra=extra)
        case task:
            raise GenerationError(f"{row['request_id']}: the plan has an unknown task {task!r}")


_NAMES = {IMAGE: "input image", MASK: "mask"}


def _angles(value: Any) -> tuple[str, ...]:
    if not value:
        return MultiAngleRequest.angles
    if not isinstance(value, list) or not all(isinstance(angle, str) and angle for angle in value):
        raise GenerationError(f"extra.angles: {value!r} is not a list of views (write [front, side])")
    return tuple(value)


class InputImages:
    """Reads and prepares input images, and keeps the last few of both, which neighbouring requests share."""

    def __init__(self, options: Mapping[str, Any], signed: Mapping[str, str] | None = None, *, keep: int = 16) -> None:
        self._options = options
        self._signed = signed
        self._keep = keep
        self._cache: dict[tuple[object, ...], bytes] = {}
        self._lock = threading.Lock()  # of the cache: shards may run side by side

    def prepare(self, row: Row, column: str) -> bytes:
        """The image of a row's column as its backend is to see it.

        Raises:
            InputImageError: it is gone, was replaced since the job was planned, or is of no use.
            InputUnavailableError: the web server that has it fails.
            StorageError: the object store that has it fails.
        """
        url, fit = row[column], row.get("input_fit")
        if fit is None:
            return self.read(url)
        planned = row[INPUT_DIGESTS[column]]
        size = (row["width"], row["height"]) if row["width"] and row["height"] else None
        own = (row["input_width"], row["input_height"])
        key = (column, url, planned, size, own, fit)
        if (found := self._find(key)) is not None:
            return found
        data = self.read(url)
        if hashlib.sha256(data).hexdigest() != planned:
            self._forget((url,))  # it may be put back
            raise InputImageError(
                f"{url}: the {_NAMES[column]} changed since planning: {len(data):,} bytes of other content "
                "(put the file back and retry, or start a new run)"
            )
        name = f"{_NAMES[column]} {url}"
        if column == MASK:
            prepared = prepare_mask(data, size or own, fit, name=name)
        else:
            prepared = prepare_picture(data, size, fit, planned=own, name=name)
        self._keep_last(key, prepared)
        return prepared

    def read(self, url: str) -> bytes:
        """The file as it is."""
        if (found := self._find((url,))) is not None:
            return found
        unsigned = self._signed is not None and url.startswith(WEB) and url not in self._signed
        if unsigned and _CUT.search(url):
            raise InputImageError(f"{url}: the rest of this URL is not kept ({_GIVE_THE_SPEC})")
        try:
            data = read_url((self._signed or {}).get(url, url), self._options)
        except Exception as exc:
            match classify(exc):
                case None:
                    raise
                case Failure.TRANSIENT if url.startswith(WEB):  # a host of its own, which may never come back
                    raise InputUnavailableError(f"{url}: {explain(exc, writing=False)}") from exc
                case Failure.TRANSIENT:  # the store is down, not the row wrong
                    raise storage_error(url, exc) from exc
            said = explain(exc, writing=False) + (f" ({_GIVE_THE_SPEC}, if it was signed)" if unsigned else "")
            raise InputImageError(f"{url}: the input image cannot be read: {said}") from exc
        self._keep_last((url,), data)
        return data

    def _find(self, key: tuple[object, ...]) -> bytes | None:
        with self._lock:
            return self._cache.get(key)

    def _forget(self, key: tuple[object, ...]) -> None:
        with self._lock:
            self._cache.pop(key, None)

    def _keep_last(self, key: tuple[object, ...], data: bytes) -> None:
        with self._lock:
            self._cache[key] = data
            while len(self._cache) > 2 * self._keep:
                del self._cache[next(iter(self._cache))]
