"""Says what is in an image and whether it is what was asked for, by rules written down here; nothing is learned.

An image is right, strictly, when all six hold:

- *background*: most of the border (the outer two pixels) is nearest in RGB to the colour asked for;
- *one object*: exactly one region stands out from the background;
- *colour*: the median colour inside that region is nearest to the one asked for, of all nine colours;
- *shape*: the ideal outline that overlaps the region best is the one asked for, and the overlap is above 0.75
  (intersection over union with that outline drawn to fit the region's bounding box);
- *size*: its fitted radius lies on the right side of 13.5 px, halfway between the largest small and the smallest large;
- *position*: of the nine places its fitted centre is nearest to the right one, and within 6.5 px of it.

*Not covered:* images with a pattern behind the object, soft or outlined objects, other sizes than 64×64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.shapes64.grammar import BACKGROUNDS, COLOURS, IMAGE_SIDE, PLACES, SHAPES, Combination
from training.shapes64.render import SQUARE_HALF_SIDE, TRIANGLE_DROP, TRIANGLE_INRADIUS, coverage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BORDER = 2
# RGB distance from the background at which a pixel stands out; the palest pair of colours is 124 apart (cyan on grey).
STANDS_OUT = 60.0
# Regions of fewer pixels are specks; the smallest object has 133.
SMALLEST_REGION = 16
SHAPE_OVERLAP = 0.75
SIZE_BORDER = 13.5
POSITION_RADIUS = 6.5

_PALETTE = {**COLOURS, **BACKGROUNDS}
_NAMES = tuple(_PALETTE)
_RGB = np.array([_PALETTE[name] for name in _NAMES], dtype=np.float32)

# Half width, half height and middle (downwards) of each outline's bounding box, for radius 1.
_TRIANGLE_TOP = TRIANGLE_DROP - 2 * TRIANGLE_INRADIUS
_TRIANGLE_BOTTOM = TRIANGLE_DROP + TRIANGLE_INRADIUS
_BOUNDS: dict[str, tuple[float, float, float]] = {
    "circle": (1.0, 1.0, 0.0),
    "square": (SQUARE_HALF_SIDE, SQUARE_HALF_SIDE, 0.0),
    "triangle": (
        3**0.5 * TRIANGLE_INRADIUS,
        (_TRIANGLE_BOTTOM - _TRIANGLE_TOP) / 2,
        (_TRIANGLE_BOTTOM + _TRIANGLE_TOP) / 2,
    ),
    "cross": (1.0, 1.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What an image shows; the object is the largest region, and None when nothing stands out."""

    background: str
    regions: int
    colour: str | None = None
    shape: str | None = None
    overlap: float = 0.0
    x: float = math.nan
    y: float = math.nan
    radius: float = math.nan
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which parts of a prompt an image gets right."""

    background: bool
    one_object: bool
    colour: bool
    shape: bool
    size: bool
    position: bool

    @property
    def right(self) -> bool:
        """Whether all parts are."""
        return all(asdict(self).values())


def nearest_names(pixels: NDArray[np.float32]) -> NDArray[np.intp]:
    """The number of the nearest named colour of each pixel: `(..., 3)` gives `(...)`."""
    nearest: NDArray[np.intp] = ((pixels[..., None, :] - _RGB) ** 2).sum(-1).argmin(-1)
    return nearest


def find_regions(mask: Mask) -> list[Mask]:
    """Split a mask into regions that touch by their sides, largest first, without the specks."""
    left = mask.copy()
    regions = []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        region, waiting = np.zeros_like(mask), [start]
        left[start] = False
        while waiting:
            y, x = waiting.pop()
            region[y, x] = True
            for beside in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= beside[0] < mask.shape[0] and 0 <= beside[1] < mask.shape[1] and left[beside]:
                    left[beside] = False
                    waiting.append(beside)
        if region.sum() >= SMALLEST_REGION:
            regions.append(region)
    return sorted(regions, key=np.count_nonzero, reverse=True)


def _fit(shape: str, region: Mask) -> tuple[float, float, float, float]:
    """Fit an outline to the bounding box of a region: overlap, then x, y and radius in pixels."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    half_width, half_height, middle = _BOUNDS[shape]
    width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    radius = float(width / half_width + height / half_height) / 4
    x = float(columns[0] + columns[-1] + 1) / 2
    y = float(rows[0] + rows[-1] + 1) / 2 - middle * radius
    drawn = coverage(shape, torch.tensor([x]), torch.tensor([y]), torch.tensor([radius]))[0].numpy() > 0.5
    overlap = float(np.count_nonzero(drawn & region) / np.count_nonzero(drawn | region))
    return overlap, x, y, radius


def classify(image: Pixels) -> Found:
    """Describe an image of `(64, 64, 3)` uint8, RGB."""
    if image.shape != (IMAGE_SIDE, IMAGE_SIDE, 3):
        raise ValueError(f"image: shape {image.shape} (expected ({IMAGE_SIDE}, {IMAGE_SIDE}, 3))")
    pixels = image.astype(np.float32)
    names = nearest_names(pixels)
    on_border = np.ones(names.shape, dtype=bool)
    on_border[BORDER:-BORDER, BORDER:-BORDER] = False
    behind = int(np.bincount(names[on_border], minlength=len(_NAMES)).argmax())
    background = np.median(pixels[names == behind], axis=0)
    regions = find_regions(np.linalg.norm(pixels - background, axis=-1) > STANDS_OUT)
    if not regions:
        return Found(background=_NAMES[behind], regions=0)

    # Without the pixels of its outline, which mix two colours.
    region = regions[0]
    inner = region.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        inner &= np.roll(region, step, axis)
    colour = np.median(pixels[inner if inner.any() else region], axis=0)
    # The outline runs where a pixel is half object, half background.
    share = (pixels - background) @ (colour - background) / max(1.0, float(((colour - background) ** 2).sum()))
    region = region & (share > 0.5)
    if not region.any():
        return Found(background=_NAMES[behind], regions=len(regions))
    (overlap, x, y, radius), shape = max((_fit(shape, region), shape) for shape in SHAPES)
    return Found(
        background=_NAMES[behind],
        regions=len(regions),
        colour=_NAMES[int(nearest_names(colour))],
        shape=shape,
        overlap=overlap,
        x=x,
        y=y,
        radius=radius,
        mask=region,
    )


def check(found: Found, asked: Combination) -> Verdict:
    """Compare what an image shows with what was asked for."""
    places = {place: Combination("", "", "", asked.size, place).centre for place in PLACES}
    distances = {place: math.dist((found.x, found.y), centre) for place, centre in places.items()}
    return Verdict(
        background=found.background == asked.background,
        one_object=found.regions == 1,
        colour=found.colour == asked.colour,
        shape=found.shape == asked.shape and found.overlap > SHAPE_OVERLAP,
        size=(found.radius > SIZE_BORDER) if asked.size == "large" else (found.radius < SIZE_BORDER),
        position=(
            distances[asked.place] < POSITION_RADIUS and min(distances, key=distances.__getitem__) == asked.place
        ),
    )


def judge(images: Sequence[Pixels], asked: Sequence[Combination]) -> list[Verdict]:
    """Check each image against its combination."""
    return [check(classify(image), combination) for image, combination in zip(images, asked, strict=True)]


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Share of the verdicts that is right, from 0 to 1, by part and as `right` for all parts together."""
    rows = [{**asdict(verdict), "right": verdict.right} for verdict in verdicts]
    return {part: sum(bool(row[part]) for row in rows) / len(rows) for part in rows[0]}
