"""Draws scenes of the grammar: anti-aliased shapes from signed distances, on the CPU, from random numbers alone.

There is no data set: every training image is drawn when it is needed, and none is drawn twice.

*Not covered:* more than one object per image, outlines, textures, rotation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.shapes64.grammar import BACKGROUNDS, COLOURS, IMAGE_SIDE, SHAPES, SIZES, Combination, prompt_for

# How far a drawn object may be from what its words say.
COLOUR_JITTER = 8.0
BACKGROUND_JITTER = 4.0
CENTRE_JITTER = 2.0

# Every fifth prompt leaves the size open, and every fifth the background, so that shorter prompts work too.
OMIT_PROBABILITY = 0.2

SQUARE_HALF_SIDE = 0.86
CROSS_HALF_WIDTH = 0.36
TRIANGLE_INRADIUS = 0.58
TRIANGLE_DROP = 0.18


@dataclass(frozen=True, slots=True)
class Scene:
    """One object with its numbers drawn: colours as 0 to 255, lengths in pixels."""

    shape: str
    colour: tuple[float, ...]
    background: tuple[float, ...]
    x: float
    y: float
    radius: float


def signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Distance in pixels from the outline, negative inside; `x` and `y` count from the centre of the object."""
    if shape == "circle":
        return torch.sqrt(x * x + y * y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - SQUARE_HALF_SIDE * radius
    if shape == "triangle":
        inradius, below = TRIANGLE_INRADIUS * radius, y - TRIANGLE_DROP * radius
        return torch.maximum(below - inradius, 0.75**0.5 * x.abs() - 0.5 * below - inradius)
    if shape == "cross":
        across, along, half_width = x.abs(), y.abs(), CROSS_HALF_WIDTH * radius
        upright = torch.maximum(across - half_width, along - radius)
        lying = torch.maximum(across - radius, along - half_width)
        return torch.minimum(upright, lying)
    raise ValueError(f"shape: {shape!r} (one of {', '.join(SHAPES)})")


def coverage(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """How much of each pixel the object covers: `(n, 64, 64)` from 0 to 1; the arguments are `(n,)`, in pixels."""
    middle = torch.arange(IMAGE_SIDE) + 0.5
    left, top, size = (value[:, None, None] for value in (x, y, radius))
    return (0.5 - signed_distance(shape, middle[None, None, :] - left, middle[None, :, None] - top, size)).clamp(0, 1)


def draw_scene(combination: Combination, rng: random.Random) -> Scene:
    """Draw the numbers that the words leave open: exact size, place and tint."""
    radius = rng.uniform(*SIZES[combination.size])
    margin = 1.02 * radius + 1  # the object stays inside the image
    x, y = (
        min(max(value + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER), margin), IMAGE_SIDE - margin)
        for value in combination.centre
    )

    def tint(rgb: tuple[int, int, int], spread: float) -> tuple[float, ...]:
        return tuple(min(255.0, max(0.0, value + rng.uniform(-spread, spread))) for value in rgb)

    return Scene(
        shape=combination.shape,
        colour=tint(COLOURS[combination.colour], COLOUR_JITTER),
        background=tint(BACKGROUNDS[combination.background], BACKGROUND_JITTER),
        x=x,
        y=y,
        radius=radius,
    )


def render_scenes(scenes: Sequence[Scene]) -> torch.Tensor:
    """Paint scenes: `(n, 3, 64, 64)` float32 from -1 to 1, RGB."""
    background = torch.tensor([scene.background for scene in scenes])[:, :, None, None]
    colour = torch.tensor([scene.colour for scene in scenes])[:, :, None, None]
    covered = torch.zeros(len(scenes), 1, IMAGE_SIDE, IMAGE_SIDE)
    for shape in SHAPES:
        chosen = [index for index, scene in enumerate(scenes) if scene.shape == shape]
        if chosen:
            numbers = torch.tensor([[scenes[i].x, scenes[i].y, scenes[i].radius] for i in chosen])
            covered[chosen, 0] = coverage(shape, *numbers.unbind(1))
    return torch.lerp(background, colour, covered) / 127.5 - 1


def draw_batch(
    count: int, rng: random.Random, combinations: Sequence[Combination]
) -> tuple[torch.Tensor, list[str], list[Combination]]:
    """Draw `count` random training samples: images as `render_scenes` paints them, prompts, combinations."""
    chosen = rng.choices(combinations, k=count)
    prompts = [
        prompt_for(
            combination,
            say_size=rng.random() >= OMIT_PROBABILITY,
            say_background=rng.random() >= OMIT_PROBABILITY,
        )
        for combination in chosen
    ]
    return render_scenes([draw_scene(combination, rng) for combination in chosen]), prompts, chosen
