"""A backend that generates in batches alone: one request is a batch of one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from abstractvision_batch.backends.base_backend import BatchItem, Cancelled, ProgressCallback, VisionBackend
from abstractvision_batch.media.images import decode_image, encode_image
from abstractvision_batch.types import (
    RAW_RGB_MIME_TYPE,
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
    VisionRequest,
)


class BatchBackend(VisionBackend):
    """Has every task's method from `generate_batch`; pictures that come as raw pixels leave these methods as PNG."""

    @abstractmethod
    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]: ...

    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        return self._generate_asset(request)

    def generate_image_with_progress(
        self, request: ImageGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return self._generate_asset(request, progress_callback)

    def edit_image(self, request: ImageEditRequest) -> GeneratedAsset:
        return self._generate_asset(request)

    def edit_image_with_progress(
        self, request: ImageEditRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return self._generate_asset(request, progress_callback)

    def generate_angles(self, request: MultiAngleRequest) -> list[GeneratedAsset]:
        views = self._generate_item(request)
        assert isinstance(views, list)  # of a multi_view_image request
        return [as_file(view) for view in views]

    def generate_video(self, request: VideoGenerationRequest) -> GeneratedAsset:
        return self._generate_asset(request)

    def generate_video_with_progress(
        self, request: VideoGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return self._generate_asset(request, progress_callback)

    def image_to_video(self, request: ImageToVideoRequest) -> GeneratedAsset:
        return self._generate_asset(request)

    def image_to_video_with_progress(
        self, request: ImageToVideoRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        return self._generate_asset(request, progress_callback)

    def _generate_asset(self, request: VisionRequest, on_step: ProgressCallback | None = None) -> GeneratedAsset:
        asset = self._generate_item(request, on_step)
        assert isinstance(asset, GeneratedAsset)  # a list is only for multi_view_image
        return as_file(asset)

    def _generate_item(
        self, request: VisionRequest, on_step: ProgressCallback | None = None
    ) -> GeneratedAsset | list[GeneratedAsset]:
        (item,) = self.generate_batch([request], on_step=on_step)
        if isinstance(item, Exception):
            raise item
        return item


def as_file(asset: GeneratedAsset) -> GeneratedAsset:
    """Return the asset as an encoded file: raw pixels as PNG, anything else as it is."""
    if asset.mime_type != RAW_RGB_MIME_TYPE:
        return asset
    return replace(asset, data=encode_image(decode_image(asset.data), "png"), mime_type="image/png")
