"""A batch as a Python program that needs PyTorch and Diffusers alone: what this backend does, written out.

For a person who wants to see, change or believe what was run. Not covered: what no few lines express (quantisation,
compiled or exchanged components), multi_view_image.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pprint import pformat
from typing import Any

from abstractvision_batch.backends.base_backend import ProgramRow
from abstractvision_batch.backends.huggingface_diffusers.config import (
    UNSAYABLE,
    HuggingFaceDiffusersBackendConfig,
)
from abstractvision_batch.backends.huggingface_diffusers.families import IMAGE_LISTS, TILED, argument_names
from abstractvision_batch.backends.huggingface_diffusers.loading import get_pipeline_class, quiet
from abstractvision_batch.backends.huggingface_diffusers.locate import find_lora, find_model, has_decoder
from abstractvision_batch.backends.huggingface_diffusers.prepare import (
    extra_arguments,
    request_loras,
    request_scheduler,
    sampling_arguments,
    size_arguments,
)
from abstractvision_batch.errors import CapabilityNotSupportedError
from abstractvision_batch.types import MultiAngleRequest

_OFFLOADS = {"model": "model_cpu_offload", "sequential": "sequential_cpu_offload"}


def write_program(config: HuggingFaceDiffusersBackendConfig, rows: Sequence[ProgramRow], slot: int) -> str:
    """The program for `rows[slot]`, run in one forward pass with its neighbours as it was.

    Raises:
        CapabilityNotSupportedError: an option of the backend, or the task, cannot be written so.
        DependencyError: the model or an adapter is not there.
    """
    for option in fields(config):
        if option.metadata == UNSAYABLE and getattr(config, option.name) not in (option.default, {}):
            raise CapabilityNotSupportedError(
                f"backend.{option.name}: a short program cannot say it (avbatch verify can)"
            )
    row = rows[slot]
    if row.metadata.get("batch_size") == 1:
        rows, slot = [row], 0  # it ran without its neighbours
    if isinstance(row.request, MultiAngleRequest):
        raise CapabilityNotSupportedError("multi_view_image: a short program cannot say it (avbatch verify can)")
    video = str(row.content_type).startswith("video/")
    lines = [
        f'"""Request {row.request_id}: slot {slot} of a batch of {len(rows)}."""',
        "",
        *(["import hashlib", ""] if not video else []),
        "import diffusers",
        "import numpy as np",
        "import torch",
        f"from diffusers.utils import {'export_to_video, ' if video else ''}load_image",
        "from PIL import Image, ImageOps",
        "",
        f"torch.set_num_threads({config.threads})  # the number changes pixels by a level",
        *_load_lines(config, row),
        *_lora_lines(config, row),
        "",
        *_call_lines(config, rows),
        "",
        *(_video_lines(row, slot) if video else _image_lines(row, slot)),
    ]
    return "\n".join(lines) + "\n"


def _load_lines(config: HuggingFaceDiffusersBackendConfig, row: ProgramRow) -> Iterator[str]:
    model, name = find_model(config), row.metadata["pipeline"]
    dtype = f"torch.{row.metadata['dtype']}"
    if model.checkpoint is None:
        source = repr(str(model.folder)) if model.revision is None else f"{model.name!r}, revision={model.revision!r}"
        inside = "" if model.revision is None or config.subfolder is None else f", subfolder={config.subfolder!r}"
        variant = "" if config.variant is None else f", variant={config.variant!r}"
        yield f"pipeline = diffusers.{name}.from_pretrained({source}{inside}{variant}, torch_dtype={dtype})"
    elif has_decoder(model.checkpoint):
        place = f"{str(model.checkpoint)!r}, config={str(model.folder)!r}"
        yield f"pipeline = diffusers.{name}.from_single_file({place}, torch_dtype={dtype})"
    else:
        raise CapabilityNotSupportedError(
            "backend.model_path: a checkpoint of the denoiser alone is more than a short program says"
        )
    if (scheduler := request_scheduler(dict(row.request.extra), config.scheduler)) is not None:
        settings = "".join(f", {name}={value!r}" for name, value in scheduler.settings.items())
        yield f"pipeline.scheduler = diffusers.{scheduler.name}.from_config(pipeline.scheduler.config{settings})"
    device = repr(str(row.metadata["device"]))
    if config.offload == "none":
        yield f"pipeline.to({device})"
    else:
        yield f"pipeline.enable_{_OFFLOADS[config.offload]}(device={device})"
    if config.attention_slicing:
        yield "pipeline.enable_attention_slicing()"
    if config.vae_slicing:
        yield "pipeline.vae.enable_slicing()"
    if config.vae_tiling or name in TILED:
        yield "pipeline.vae.enable_tiling()"


def _lora_lines(config: HuggingFaceDiffusersBackendConfig, row: ProgramRow) -> Iterator[str]:
    adapters = request_loras(dict(row.request.extra), config)
    for number, adapter in enumerate(adapters):
        folder, weight_name = find_lora(adapter, config)
        yield (
            f"pipeline.load_lora_weights({str(folder)!r}, weight_name={weight_name!r}, adapter_name='lora_{number}')"
        )
    if adapters:
        names = [f"lora_{number}" for number in range(len(adapters))]
        yield f"pipeline.set_adapters({names!r}, adapter_weights={[adapter.scale for adapter in adapters]!r})"


def _call_lines(config: HuggingFaceDiffusersBackendConfig, rows: Sequence[ProgramRow]) -> Iterator[str]:
    first = rows[0]
    name = str(first.metadata["pipeline"])
    with quiet():  # advice of its own on the import
        accepted = inspect.signature(get_pipeline_class(name).__call__).parameters
    names = argument_names(accepted, config.rename)
    arguments = _shared_arguments(config, first, accepted, name)
    size = f"({first.width}, {first.height})"
    yield f"seeds = {_listed([row.metadata['seed'] for row in rows])}"
    only = "" if len(rows) > 1 else "[0]"  # some pipelines take no list
    if names["prompt"] in accepted:
        yield f"prompts = {_listed([row.metadata.get('prompt_sent', row.request.prompt or '') for row in rows])}"
        arguments[names["prompt"]] = f"prompts{only}"
    negatives = [row.request.negative_prompt for row in rows]
    if negatives[0] is None and "true_cfg_scale" in arguments:
        negatives = [" " for _ in rows]
    if negatives[0] is not None:
        yield f"negative_prompts = {_listed(negatives)}"
        arguments[names["negative_prompt"]] = f"negative_prompts{only}"
    if first.image is not None:
        yield from _ON_WHITE
        yield f"images = [load_image(path, on_white) for path in {_listed([row.image for row in rows])}]"
        yield f"images = [{_fitted('image', first.fit, size, 'LANCZOS', 'white')} for image in images]"
        listed = names["image"] in IMAGE_LISTS
        arguments[names["image"]] = f"[[image] for image in images]{only}" if listed else f"images{only}"
    if first.mask is not None:
        yield from _CHANGES
        yield f"masks = [load_image(path, changes) for path in {_listed([row.mask for row in rows])}]"
        yield f"masks = [{_fitted('mask', first.fit, size, 'BILINEAR', 'black')} for mask in masks]"
        arguments[names["mask"]] = f"masks{only}"
    arguments["generator"] = f"[torch.Generator('cpu').manual_seed(seed) for seed in seeds]{only}"
    arguments["output_type"] = "'np'"
    yield "result = pipeline("
    for key, value in arguments.items():
        yield f"    {key}={value},"
    yield ")"


_ON_WHITE = (
    "def on_white(image):",
    "    image = image.convert('RGBA')",
    "    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')",
)
_CHANGES = (
    "def changes(mask):  # its transparent pixels, or else its white ones",
    "    alpha = mask.convert('RGBA').getchannel('A')",
    "    return ImageOps.invert(alpha) if alpha.getextrema()[0] < 255 else mask.convert('L')",
)


def _fitted(name: str, fit: str, size: str, resampling: str, colour: str) -> str:
    """The expression that brings an image to its size."""
    if fit == "crop":
        return f"ImageOps.fit({name}, {size}, Image.Resampling.{resampling})"
    if fit == "pad":
        return f"ImageOps.pad({name}, {size}, Image.Resampling.{resampling}, color={colour!r})"
    return f"{name}.resize({size}, Image.Resampling.{resampling})"


def _shared_arguments(
    config: HuggingFaceDiffusersBackendConfig, row: ProgramRow, accepted: Mapping[str, Any], name: str
) -> dict[str, str]:
    """What all requests of the batch have in common, as source text."""
    shared, _ = sampling_arguments(row.request, accepted, name, config.rename)  # type: ignore[arg-type]
    extra = dict(row.request.extra)
    request_loras(extra, config)
    request_scheduler(extra, None)
    shared |= extra_arguments(extra, accepted)
    names = argument_names(accepted, config.rename)
    asked = row.request.width is not None or row.request.height is not None
    shared = size_arguments(name, accepted, names, (row.width, row.height), exact=asked) | shared
    frames, fps = row.metadata.get("num_frames", row.frames), row.metadata.get("fps")
    if fps is not None:
        video = {names["num_frames"]: frames, names["fps"]: fps}
        shared |= {key: value for key, value in video.items() if key in accepted}
    return {key: repr(value) for key, value in shared.items()}


def _image_lines(row: ProgramRow, slot: int) -> Iterator[str]:
    yield f"pixels = (result.images[{slot}] * 255).round().astype(np.uint8)"
    yield "image = Image.fromarray(pixels)"
    if row.mask is not None:
        yield f"image = Image.composite(image, images[{slot}], masks[{slot}])  # what the mask keeps is the input's"
    yield f"image.save({f'{row.request_id}.png'!r})"
    yield "digest = hashlib.sha256(f'RGB {image.width}x{image.height}\\n'.encode() + image.tobytes()).hexdigest()"
    yield f"print('the same pixels' if digest == {row.pixel_sha256!r} else f'other pixels: {{digest}}')"


def _video_lines(row: ProgramRow, slot: int) -> Iterator[str]:
    path = f"{row.request_id}.mp4"
    yield f"export_to_video(list(result.frames[{slot}]), {path!r}, fps={row.metadata['fps']})"


def _listed(values: Sequence[Any]) -> str:
    """A list in source text, one value a line where there are several."""
    text = json.dumps(values, ensure_ascii=False) if all(isinstance(value, str) for value in values) else None
    return text if text is not None and len(text) < 80 else pformat(list(values), width=110)
