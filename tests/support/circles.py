"""A red circle, drawn and found again: fitting a picture must leave it as wide as high."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_SUPERSAMPLING = 8


def draw_circle(size: tuple[int, int]) -> Image.Image:
    """A red circle in the middle of a black picture, 0.7 times as wide as the shorter side."""
    large = Image.new("RGB", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), "black")
    radius = min(large.size) * 0.35
    x, y = large.width / 2, large.height / 2
    ImageDraw.Draw(large).ellipse((x - radius, y - radius, x + radius, y + radius), "red")
    return large.resize(size, Image.Resampling.BOX)


def measure_circle(pixels: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Width and height of the red part of (height, width, 3) pixels."""
    red = (pixels[:, :, 0] > 127) & (pixels[:, :, 1] < 127)
    rows, columns = np.nonzero(red.any(axis=1))[0], np.nonzero(red.any(axis=0))[0]
    return int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)
