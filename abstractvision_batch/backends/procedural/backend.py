"""A backend without a model: deterministic pictures, with delays, failures and crashes on demand, and a journal.

It does every task, so a whole job can be tried, tested and broken anywhere. The pictures are `drawing`'s: they show
prompt, seed, steps and guidance at a glance and depend on nothing else, so the batch size never changes them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from abstractvision_batch.backends.base_backend import BatchItem, Cancelled, ProgressCallback, generate_in_turn
from abstractvision_batch.backends.batch_backend import BatchBackend
from abstractvision_batch.backends.procedural.drawing import Picture, Plane, draw
from abstractvision_batch.errors import GenerationCancelledError, GenerationError, SpecError
from abstractvision_batch.media.images import Rgb, raw_rgb, to_rgb_array
from abstractvision_batch.media.inputs import read_mask, read_picture
from abstractvision_batch.media.video import encode_video
from abstractvision_batch.runs.environment import processor_name
from abstractvision_batch.types import (
    MORE_PICTURES,
    RAW_RGB_MIME_TYPE,
    TASKS,
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    Task,
    VideoGenerationRequest,
    VisionBackendCapabilities,
    VisionRequest,
)

DEFAULT_SIDE = 128  # pixels
DEFAULT_STEPS = 20
DEFAULT_GUIDANCE_SCALE = 5.0
DEFAULT_STRENGTH = 0.6
DEFAULT_NUM_FRAMES = 16
DEFAULT_FPS = 8
_POLL_S = 0.05
_CRASH_STATUS = 134  # what a shell reports after abort()


@dataclass(frozen=True)
class ProceduralBackendConfig:
    """How the backend behaves, beside drawing."""

    delay_s: float = 0.0
    """Seconds that each request takes."""
    load_s: float = 0.0
    """Seconds that loading takes."""
    fail_when: str | None = None
    """Regular expression; a request whose prompt matches fails."""
    crash_when: str | None = None
    """Regular expression; a request whose prompt matches ends this process, as a native crash would."""
    hang_when: str | None = None
    """Regular expression; a request whose prompt matches never ends and heeds no cancel, as native code may."""
    journal_path: str | None = None
    """File to which each request appends a line when it begins: what was generated how often, whatever died."""


class ProceduralVisionBackend(BatchBackend):
    """Draws every task's media from prompt and seed."""

    def __init__(self, config: ProceduralBackendConfig | None = None) -> None:
        self.config = config or ProceduralBackendConfig()
        self._fails = _compiled("fail_when", self.config.fail_when)
        self._crashes = _compiled("crash_when", self.config.crash_when)
        self._hangs = _compiled("hang_when", self.config.hang_when)
        self._loaded = False

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str) -> Self:
        """Make the backend that a job describes; the card says nothing that it needs."""
        return cls(ProceduralBackendConfig(**fields))

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        """Draw one request after the other; images come as raw pixels."""
        return generate_in_turn(
            requests, lambda request: self._draw_any(request, on_step, cancelled), cancelled=cancelled
        )

    def get_capabilities(self) -> VisionBackendCapabilities:
        """Every task, with masks and further pictures, at any size."""
        return VisionBackendCapabilities(supported_tasks=list(TASKS), supports_mask=True, pictures=MORE_PICTURES)

    def environment(self) -> dict[str, Any]:
        """Describe the processor; the pixels depend on it no more than NumPy's arithmetic does."""
        return {
            "device": "cpu",
            "device_name": processor_name(),
            "dtype": "float32",
            "versions": {"numpy": np.__version__},
        }

    def preload(self, task: Task | None = None) -> None:
        """Wait as long as loading takes, once."""
        if not self._loaded:
            time.sleep(self.config.load_s)
            self._loaded = True

    def unload(self) -> None:
        """Forget that anything was loaded."""
        self._loaded = False

    def _draw_any(
        self, request: VisionRequest, on_step: ProgressCallback | None, cancelled: Cancelled | None
    ) -> GeneratedAsset | list[GeneratedAsset]:
        match request:
            case ImageGenerationRequest():
                return self._draw_image(request, on_step, cancelled)
            case ImageEditRequest():
                return self._draw_edit(request, on_step, cancelled)
            case MultiAngleRequest():
                return self._draw_angles(request, on_step, cancelled)
            case VideoGenerationRequest() | ImageToVideoRequest():
                return self._draw_video(request, on_step, cancelled)

    def _draw_image(
        self, request: ImageGenerationRequest, on_step: ProgressCallback | None, cancelled: Cancelled | None
    ) -> GeneratedAsset:
        width, height = request.width or DEFAULT_SIDE, request.height or DEFAULT_SIDE
        self._work(request, on_step, cancelled)
        return _raw_asset(_with_row(draw(_picture(request), width, height), request.control), request)

    def _draw_edit(
        self, request: ImageEditRequest, on_step: ProgressCallback | None, cancelled: Cancelled | None
    ) -> GeneratedAsset:
        source = read_picture(request.image)
        width, height = request.width or source.width, request.height or source.height
        cover = np.float32(DEFAULT_STRENGTH if request.strength is None else request.strength)
        mask = np.ones((height, width, 1), np.float32)
        if request.mask is not None:
            gray = read_mask(request.mask).resize((width, height))
            mask = np.asarray(gray, np.float32)[:, :, None] / np.float32(255)
        self._work(request, on_step, cancelled)
        drawn = draw(_picture(request), width, height)
        edited = _mix(_resized(source, width, height), drawn, cover * mask)
        return _raw_asset(_with_row(edited, (*request.images, *request.control)), request)

    def _draw_angles(
        self, request: MultiAngleRequest, on_step: ProgressCallback | None, cancelled: Cancelled | None
    ) -> list[GeneratedAsset]:
        reference = read_picture(request.reference_image, name="reference image") if request.reference_image else None
        width = request.width or (reference.width if reference else DEFAULT_SIDE)
        height = request.height or (reference.height if reference else DEFAULT_SIDE)
        self._work(request, on_step, cancelled)
        views = []
        for angle in request.angles:
            drawn = draw(_picture(request, view=angle), width, height)
            if reference is not None:
                drawn = _mix(
                    _resized(reference, width, height), drawn, np.full((1, 1, 1), DEFAULT_STRENGTH, np.float32)
                )
            views.append(_raw_asset(drawn, request, angle=angle))
        return views

    def _draw_video(
        self,
        request: VideoGenerationRequest | ImageToVideoRequest,
        on_step: ProgressCallback | None,
        cancelled: Cancelled | None,
    ) -> GeneratedAsset:
        start = end = None
        if isinstance(request, ImageToVideoRequest):
            start = read_picture(request.image)
            end = read_picture(request.last_image) if request.last_image else None
        width = request.width or (start.width if start else DEFAULT_SIDE)
        height = request.height or (start.height if start else DEFAULT_SIDE)
        count, fps = request.num_frames or DEFAULT_NUM_FRAMES, request.fps or DEFAULT_FPS
        self._work(request, on_step, cancelled)
        frames = []
        for index in range(count):
            _raise_if(cancelled)
            frame = draw(_picture(request), width, height, phase=index / count)
            if start is not None:  # the first frame is the image itself
                frame = _mix(_resized(start, width, height), frame, np.float32(DEFAULT_STRENGTH * min(1.0, index / 4)))
            if end is not None:  # and the last frame, the other
                ending = max(0.0, 1 - (count - 1 - index) / 4)
                frame = _mix(frame, _resized(end, width, height), np.float32(ending))
            frames.append(frame)
        return GeneratedAsset("video", encode_video(frames, fps=fps), "video/mp4", _metadata(request) | {"fps": fps})

    def _work(self, request: VisionRequest, on_step: ProgressCallback | None, cancelled: Cancelled | None) -> None:
        """Take as long as asked, step by step; fail or crash on demand."""
        self.preload()
        _raise_if(cancelled)
        prompt = request.prompt or ""
        if self.config.journal_path is not None:
            _append_line(self.config.journal_path, request)
        if self._crashes is not None and self._crashes.search(prompt):
            os._exit(_CRASH_STATUS)
        while self._hangs is not None and self._hangs.search(prompt):
            time.sleep(_POLL_S)
        steps = request.steps or DEFAULT_STEPS
        ends = time.monotonic() + self.config.delay_s
        for step in range(1, steps + 1):
            while (left := ends - self.config.delay_s * (1 - step / steps) - time.monotonic()) > 0:
                time.sleep(min(left, _POLL_S))
                _raise_if(cancelled)
            if on_step is not None:
                on_step(step, steps)
            _raise_if(cancelled)
        if self._fails is not None and self._fails.search(prompt):
            raise GenerationError(f"procedural: the prompt matches fail_when {self.config.fail_when!r}")


def _compiled(name: str, pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as exc:
        raise SpecError(f"backend.{name}: {pattern!r} is not a regular expression ({exc})") from exc


def _append_line(path: str, request: VisionRequest) -> None:
    line = {"begun_at": time.time(), "pid": os.getpid(), "seed": request.seed, "prompt": request.prompt}
    # One write to a file open for appending: lines of other processes stand before or after it, never inside.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def _raise_if(cancelled: Cancelled | None) -> None:
    if cancelled is not None and cancelled():
        raise GenerationCancelledError("procedural: cancelled by the caller")


def _picture(request: VisionRequest, *, view: str = "") -> Picture:
    return Picture(
        prompt=request.prompt or "",
        seed=request.seed or 0,
        negative_prompt=request.negative_prompt or "",
        view=view,
        steps=request.steps or DEFAULT_STEPS,
        guidance_scale=DEFAULT_GUIDANCE_SCALE if request.guidance_scale is None else request.guidance_scale,
    )


def _resized(image: Image.Image, width: int, height: int) -> Rgb:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return to_rgb_array(image)


def _with_row(pixels: Rgb, pictures: Sequence[bytes]) -> Rgb:
    """Lay pictures over the lower edge, in their order from the left, each a square of a quarter of the height."""
    side = max(1, pixels.shape[0] // 4)
    row = pixels.copy() if pictures else pixels
    for place, data in enumerate(pictures):
        there = row[-side:, place * side : (place + 1) * side]
        there[:] = _resized(read_picture(data), side, side)[:, : there.shape[1]]
    return row


def _mix(under: Rgb, over: Rgb, cover: Plane | np.float32) -> Rgb:
    mixed = under + (over.astype(np.float32) - under) * cover
    return (mixed + np.float32(0.5)).astype(np.uint8)


def _metadata(request: VisionRequest) -> dict[str, Any]:
    return {"source": "procedural", "steps": request.steps or DEFAULT_STEPS, "seed": request.seed or 0}


def _raw_asset(pixels: Rgb, request: VisionRequest, *, angle: str | None = None) -> GeneratedAsset:
    metadata = _metadata(request) | ({} if angle is None else {"angle": angle})
    return GeneratedAsset("image", raw_rgb(pixels), RAW_RGB_MIME_TYPE, metadata)
