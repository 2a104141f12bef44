"""The output of a forward pass as an asset, with what a reader of a manifest needs to know of how it came about."""

from __future__ import annotations

from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.forward import Output
from abstractvision_batch.backends.huggingface_diffusers.loaded_model import LoadedModel
from abstractvision_batch.backends.huggingface_diffusers.prepare import PreparedRequest
from abstractvision_batch.backends.huggingface_diffusers.torch_state import package_versions, repeats_exactly
from abstractvision_batch.backends.huggingface_diffusers.weight_files import hash_lora
from abstractvision_batch.media.images import raw_rgb
from abstractvision_batch.media.video import encode_video
from abstractvision_batch.types import RAW_RGB_MIME_TYPE, GeneratedAsset


def make_asset(model: LoadedModel, request: PreparedRequest, output: Output) -> GeneratedAsset:
    """Raw pixels for an image, an MP4 file for a video."""
    metadata = _describe(model, request, output)
    if request.fps is not None:
        return GeneratedAsset("video", encode_video(output.frames, fps=request.fps), "video/mp4", metadata)
    return GeneratedAsset("image", raw_rgb(output.frames[0]), RAW_RGB_MIME_TYPE, metadata)


def _describe(model: LoadedModel, request: PreparedRequest, output: Output) -> dict[str, Any]:
    config, pipeline = model.config, model.pipeline(request.kind)
    metadata: dict[str, Any] = {
        "source": "diffusers",
        "model_id": config.model_id,
        "model_path": model.files.name,
        "revision": model.files.revision,
        "pipeline": type(pipeline).__name__,
        "scheduler": type(pipeline.scheduler).__name__,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch_size": output.batch_size,
        "versions": dict(package_versions()),
        **request.notes,
    }
    if request.loras:
        metadata["loras"] = [
            {"source": lora.source, "scale": lora.scale, "sha256": hash_lora(lora, config)} for lora in request.loras
        ]
    if request.rapid_aio_repo is not None:
        metadata["rapid_aio_repo"] = request.rapid_aio_repo
    if request.fps is not None:
        metadata["fps"] = request.fps
    if output.retried_fp32:
        metadata["retried_fp32"] = True
    if output.regrouped or not repeats_exactly(model.device, config.torch_compile):
        metadata["reproducibility"] = "perceptual"  # regrouped: the pass had another size than the caller's batch
    return metadata
