"""What a pipeline answered, as arrays of frames, whatever it calls them and whatever they are.

Asked for NumPy, most answer with `images` or `frames` of one array; others with one picture under `image` or `video`,
with tensors, PIL images or lists of lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from abstractvision_batch.errors import GenerationError

Floats = npt.NDArray[np.float32]

_IMAGES = ("images", "image")
_VIDEOS = ("frames", "videos", "video")


def read_output(result: Any, count: int, *, video: bool, name: str) -> list[Floats]:
    """Return (frames, height, width, 3) in 0 … 1 per request; one frame is an image.

    Args:
        result: what the pipeline returned.
        count: how many requests it was given.
        video: whether they asked for videos.
        name: of the pipeline, for messages.

    Raises:
        GenerationError: it made something else than was asked for.
    """
    key, value = _find(result, video)
    if value is None:
        raise GenerationError(f"{name}: answered with neither pictures nor frames ({type(result).__name__})")
    if not video and key in _VIDEOS:
        made = "a video" if count == 1 else "videos"
        raise GenerationError(f"{name}: made {made} where an image was asked for (the task is text_to_video)")
    array = _to_array(value)
    if video and array.ndim == 4 and count == 1:
        array = array[None]  # one video without the dimension of the batch
    elif not video:
        array = array[None, None] if array.ndim == 3 and count == 1 else array[:, None] if array.ndim == 4 else array
    if array.ndim != 5 or len(array) != count or (not video and array.shape[1] != 1):
        raise GenerationError(
            f"{name}: answered {count} {'request' if count == 1 else 'requests'} with {key} of shape {array.shape}"
        )
    return list(_to_rgb(array, name))


def _find(result: Any, video: bool) -> tuple[str, Any]:
    if isinstance(result, tuple):
        return ("frames" if video else "images"), result[0] if result else None
    for key in (*_VIDEOS, *_IMAGES) if video else (*_IMAGES, *_VIDEOS):
        value = result.get(key) if isinstance(result, Mapping) else getattr(result, key, None)
        if value is not None:
            return key, value
    return "images", None


def _to_array(value: Any) -> Floats:
    """Turn pictures of any form into floats in 0 … 1 with the channels last."""
    if isinstance(value, torch.Tensor):
        array = np.asarray(value.detach().float().cpu().numpy() / (255 if value.dtype == torch.uint8 else 1))
        channels_first = array.ndim >= 3 and array.shape[-3] in (1, 3, 4) and array.shape[-1] not in (3, 4)
        return (np.moveaxis(array, -3, -1) if channels_first else array).astype(np.float32)
    if isinstance(value, Image.Image):
        rgb = value if value.mode in ("RGB", "RGBA") else value.convert("RGB")
        return (np.asarray(rgb) / 255).astype(np.float32)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return np.asarray(value / 255 if value.dtype == np.uint8 else value, dtype=np.float32)
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return np.stack([_to_array(one) for one in value])
    raise TypeError(f"a {type(value).__name__} is not a picture")


def _to_rgb(array: Floats, name: str) -> Floats:
    channels = array.shape[-1]
    if channels == 1:
        return np.repeat(array, 3, axis=-1)
    if channels == 4:
        color, alpha = array[..., :3], array[..., 3:]
        return color * alpha + (1 - alpha)  # over white: artifacts have no transparency
    if channels != 3:
        raise GenerationError(f"{name}: answered with {channels} channels where RGB has 3")
    return array
