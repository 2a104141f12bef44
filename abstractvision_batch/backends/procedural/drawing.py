"""Pictures drawn from text and numbers: the palette comes from the prompt, the composition from the seed.

Layers: a gradient, two wave bands, then soft-edged discs, rings and boxes. Everything is computed per pixel with
`+ - * /` and square roots, which IEEE 754 rounds alike everywhere, on random numbers that are bytes of SHAKE-256: one
request gives the same pixels on every machine and in every batch.

Not covered: requests and files (`procedural`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from abstractvision_batch.media.images import Rgb

Plane = npt.NDArray[np.float32]
Color = tuple[float, float, float]

SHAPES = 5


@dataclass(frozen=True, slots=True)
class Picture:
    """What determines a picture, beside its size."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    view: str = ""
    steps: int = 20
    """Edges grow sharper with it, as denoising would make them."""
    guidance_scale: float = 5.0
    """Colours grow stronger with it."""


def draw(picture: Picture, width: int, height: int, *, phase: float = 0.0) -> Rgb:
    """Draw a picture.

    Args:
        picture: What to draw.
        width: Pixels.
        height: Pixels.
        phase: Place in the picture's movement, 0 to 1; both ends look the same.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    palette = _palette(picture)
    numbers = _numbers("composition", picture.seed, picture.view)
    x, y, short = _axes(width, height)
    # smallest edge: one and a half pixels, where steps are many
    softness = max(1.5 / short, 0.3 / (picture.steps + 1))

    canvas = _gradient(palette, numbers, x, y)
    for color in palette[2:4]:
        _blend(canvas, _wave_band(numbers, x, y, softness, phase), color, 0.55)
    for index in range(SHAPES):
        mask = _shape(index, numbers, x, y, softness, phase)
        _blend(canvas, mask, palette[(index + 1) % len(palette)], 0.6 + 0.35 * next(numbers))
    return np.moveaxis((canvas * np.float32(255) + np.float32(0.5)).astype(np.uint8), 0, 2)


def _numbers(*key: object) -> Iterator[float]:
    """Return numbers in [0, 1) without end that depend on `key` alone."""

    def block(number: int) -> list[float]:
        digest = hashlib.shake_256(repr((*key, number)).encode()).digest(256)
        return list((np.frombuffer(digest, "<u4") / 2.0**32).tolist())

    return itertools.chain.from_iterable(map(block, itertools.count()))


def _palette(picture: Picture) -> list[Color]:
    """Choose five colours: two neighbours in hue for the ground, their complement and two accents above it."""
    numbers = _numbers("palette", picture.prompt, picture.negative_prompt)
    hue, spread = next(numbers), 0.06 + 0.12 * next(numbers)
    strength = picture.guidance_scale / (picture.guidance_scale + 1.2)
    dark = next(numbers) < 0.5
    ground = (0.22, 0.42) if dark else (0.97, 0.86)
    accents = (0.95, 0.75, 1.0) if dark else (0.55, 0.8, 0.35)
    hues = (hue, hue + spread, hue + 0.5, hue + 0.5 - spread, hue + 2 * spread)
    weights = (0.55, 0.7, 0.85, 0.9, 0.75)
    return [
        _from_hsv(h % 1.0, strength * weight, value)
        for h, weight, value in zip(hues, weights, (*ground, *accents), strict=True)
    ]


def _from_hsv(hue: float, saturation: float, value: float) -> Color:
    def channel(offset: float) -> float:
        k = (offset + hue * 6) % 6
        return value - value * saturation * max(0.0, min(k, 4 - k, 1.0))

    return channel(5), channel(3), channel(1)


def _axes(width: int, height: int) -> tuple[Plane, Plane, int]:
    """Return x as a (1, width) and y as a (height, 1) plane; the shorter side spans -1 to 1."""
    short = min(width, height)
    x = (2 * np.arange(width, dtype=np.float32) + np.float32(1 - width)) / np.float32(short)
    y = (2 * np.arange(height, dtype=np.float32) + np.float32(1 - height)) / np.float32(short)
    return x[None, :], y[:, None], short


def _direction(numbers: Iterator[float]) -> tuple[np.float32, np.float32]:
    dx, dy = 2 * next(numbers) - 1, 2 * next(numbers) - 1
    length = (dx * dx + dy * dy) ** 0.5 or 1.0
    return np.float32(dx / length), np.float32(dy / length)


def _gradient(palette: list[Color], numbers: Iterator[float], x: Plane, y: Plane) -> Plane:
    dx, dy = _direction(numbers)
    t = _smooth((x * dx + y * dy) * np.float32(0.4) + np.float32(0.5))
    low, high = (np.array(color, np.float32)[:, None, None] for color in palette[:2])
    canvas: Plane = low + (high - low) * t
    return canvas


def _wave_band(numbers: Iterator[float], x: Plane, y: Plane, softness: float, phase: float) -> Plane:
    """Return a band that swings around a line, by a triangle wave rounded to look like a sine."""
    dx, dy = _direction(numbers)
    frequency = np.float32(0.35 + 0.8 * next(numbers))
    offset = np.float32(next(numbers) + phase)
    level = np.float32(1.2 * next(numbers) - 0.6)
    thickness = np.float32(0.08 + 0.3 * next(numbers))
    swing = _smooth(_triangle((x * dy - y * dx) * frequency + offset)) * np.float32(0.5)
    distance = np.abs(x * dx + y * dy + swing - level) - thickness
    return _edge(distance, softness * 2)


def _shape(index: int, numbers: Iterator[float], x: Plane, y: Plane, softness: float, phase: float) -> Plane:
    """Return the cover of a disc, a ring or a rounded box; `phase` swings it along a short way and back."""
    swing = abs((phase + next(numbers)) % 1.0 * 2 - 1) - 0.5
    dx, dy = _direction(numbers)
    px = x - np.float32(2.2 * next(numbers) - 1.1) - dx * np.float32(swing * 0.7)
    py = y - np.float32(2.2 * next(numbers) - 1.1) - dy * np.float32(swing * 0.7)
    size = np.float32((0.12 + 0.45 * next(numbers)) * (1.0 - 0.07 * index))
    if index % 3 == 2:
        turn_x, turn_y = _direction(numbers)
        across = np.abs(px * turn_x + py * turn_y) - size
        along = np.abs(py * turn_x - px * turn_y) - size * np.float32(0.45)
        return _edge(np.maximum(across, along), softness)
    distance = np.sqrt(px * px + py * py) - size
    if index % 3 == 1:
        distance = np.abs(distance) - size * np.float32(0.18)
    return _edge(distance, softness)


def _triangle(t: Plane) -> Plane:
    """Return the triangle wave of period 1 between 0 and 1."""
    wave: Plane = np.abs((t - np.floor(t)) * np.float32(2) - np.float32(1))
    return wave


def _smooth(t: Plane) -> Plane:
    t = np.clip(t, np.float32(0), np.float32(1))
    return t * t * (np.float32(3) - np.float32(2) * t)


def _edge(distance: Plane, softness: float) -> Plane:
    """Return 1 inside, 0 outside of a signed distance, with a soft edge."""
    return _smooth(np.float32(0.5) - distance / np.float32(2 * softness))


def _blend(canvas: Plane, cover: Plane, color: Color, opacity: float) -> None:
    cover = cover * np.float32(opacity)
    for channel, value in zip(canvas, color, strict=True):
        channel += (np.float32(value) - channel) * cover
