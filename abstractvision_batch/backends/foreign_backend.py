"""An object that generates without being a `VisionBackend` of this package, as a backend that works everywhere here.

A host's own class, or a backend that was written for the older library: what counts is which of the interface's methods
it has. Not covered: a class that a job spec names, which is made by `from_fields` (`table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from abstractvision_batch.backends.base_backend import BatchItem, Cancelled, ProgressCallback, VisionBackend
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendNotConfiguredError,
    CapabilityNotSupportedError,
    GenerationError,
    InvalidOutputError,
)
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    ProviderModelInfo,
    Task,
    VideoGenerationRequest,
    VisionBackendCapabilities,
    VisionRequest,
)

#: The method that a backend has for each task; one of them makes an object a backend.
METHODS: dict[Task, str] = {
    "text_to_image": "generate_image",
    "image_to_image": "edit_image",
    "multi_view_image": "generate_angles",
    "text_to_video": "generate_video",
    "image_to_video": "image_to_video",
}


def as_backend(candidate: object) -> VisionBackend:
    """Return a `VisionBackend` as it is, and any other object that generates wrapped as one.

    Raises:
        BackendNotConfiguredError: the object has none of the generating methods.
    """
    if isinstance(candidate, VisionBackend):
        return candidate
    if not any(callable(getattr(candidate, name, None)) for name in METHODS.values()):
        raise BackendNotConfiguredError(
            f"{type(candidate).__name__}: not a VisionBackend: it has none of {', '.join(METHODS.values())}"
        )
    return ForeignBackend(candidate)


class ForeignBackend(VisionBackend):
    """Forwards to an object that has some of the interface's methods; a hook that it lacks does nothing."""

    def __init__(self, wrapped: object) -> None:
        self.wrapped = wrapped

    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        return _asset(self._call("text_to_image", request))

    def edit_image(self, request: ImageEditRequest) -> GeneratedAsset:
        return _asset(self._call("image_to_image", request))

    def generate_angles(self, request: MultiAngleRequest) -> list[GeneratedAsset]:
        return [_asset(view) for view in self._call("multi_view_image", request)]

    def generate_video(self, request: VideoGenerationRequest) -> GeneratedAsset:
        return _asset(self._call("text_to_video", request))

    def image_to_video(self, request: ImageToVideoRequest) -> GeneratedAsset:
        return _asset(self._call("image_to_video", request))

    def generate_image_with_progress(
        self, request: ImageGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return _asset(self._call("text_to_image", request, progress_callback))

    def edit_image_with_progress(
        self, request: ImageEditRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return _asset(self._call("image_to_image", request, progress_callback))

    def generate_video_with_progress(
        self, request: VideoGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return _asset(self._call("text_to_video", request, progress_callback))

    def image_to_video_with_progress(
        self, request: ImageToVideoRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return _asset(self._call("image_to_video", request, progress_callback))

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        items: list[BatchItem] = []
        for request in requests:
            try:
                items += super().generate_batch([request], cancelled=cancelled, on_step=on_step)
            except AbstractVisionError:
                raise
            except Exception as exc:  # noqa: BLE001 - a foreign class raises what it likes; it becomes this request's row
                failed = GenerationError(f"{type(self.wrapped).__name__}: {type(exc).__name__}: {exc}")
                failed.__cause__ = exc
                items.append(failed)
        return items

    def get_capabilities(self) -> VisionBackendCapabilities | None:
        told = self._hook("get_capabilities")
        if told is None:
            absent = [task for task, name in METHODS.items() if not callable(getattr(self.wrapped, name, None))]
            tasks = [task for task in METHODS if task not in absent]
            return VisionBackendCapabilities(supported_tasks=[*tasks]) if absent else None
        known = {field.name for field in fields(VisionBackendCapabilities)}
        return VisionBackendCapabilities(
            **{name: getattr(told, name) for name in known if getattr(told, name, None) is not None}
        )

    def list_provider_models(self, *, task: str | None = None) -> Sequence[ProviderModelInfo]:
        return [_model(model) for model in self._hook("list_provider_models", task=task) or ()]

    def environment(self) -> dict[str, Any]:
        return dict(self._hook("environment") or {})

    def preload(self, task: Task | None = None) -> None:
        self._hook("preload")

    def unload(self) -> None:
        self._hook("unload")

    def _call(self, task: Task, request: Any, progress_callback: ProgressCallback | None = None) -> Any:
        name = METHODS[task]
        with_progress = getattr(self.wrapped, f"{name}_with_progress", None)
        if progress_callback is not None and callable(with_progress):
            return with_progress(request, progress_callback)
        method = getattr(self.wrapped, name, None)
        if not callable(method):
            raise CapabilityNotSupportedError(f"{type(self.wrapped).__name__}: has no {name}")
        return method(request)

    def _hook(self, name: str, **arguments: Any) -> Any:
        method = getattr(self.wrapped, name, None)
        return method(**arguments) if callable(method) else None


def _asset(made: Any) -> GeneratedAsset:
    """Return what a backend made as our own record: the older library's has the same fields."""
    if isinstance(made, GeneratedAsset):
        return made
    if isinstance(made, bytes | bytearray | memoryview):
        return GeneratedAsset("image", bytes(made), "application/octet-stream")
    try:
        return GeneratedAsset(
            str(made.media_type), bytes(made.data), str(made.mime_type), dict(getattr(made, "metadata", None) or {})
        )
    except (AttributeError, TypeError, ValueError) as exc:
        raise InvalidOutputError(f"the backend answered with {type(made).__name__}, which is not an asset") from exc


def _model(model: Any) -> ProviderModelInfo:
    if isinstance(model, ProviderModelInfo):
        return model
    if isinstance(model, str):
        return ProviderModelInfo(model)
    said: Mapping[str, Any] = model if isinstance(model, Mapping) else vars(model) if is_dataclass(model) else {}
    known = {field.name for field in fields(ProviderModelInfo)}
    return ProviderModelInfo(
        **{"id": str(getattr(model, "id", model)), **{key: said[key] for key in said if key in known}}
    )
