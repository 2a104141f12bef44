"""How the size of a picture follows, for models that do not simply make the width and height asked for.

A card says it for a backend and a task, under `output_size`:

    {scale: 4}                           the input image's sides, four times as long
    {area: 1048576, multiple_of: 16}     about so many pixels, in the aspect ratio asked for
    {sizes: [[1024, 1024], [768, 1280]]} one of these
    {from_image: true}                   whatever the model makes of the input image

With `chosen: true` this is so only where nothing is asked for: width and height make exactly that size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OutputSize:
    """One such rule; exactly one of `scale`, `area`, `sizes` and `from_image` is set."""

    scale: int | None = None
    area: int | None = None
    """Pixels."""
    multiple_of: int = 1
    """Of both sides, with `area`."""
    nearest: bool = False
    """With `area`: sides become the nearest multiple, not the next smaller one."""
    sizes: tuple[Size, ...] = ()
    """Width and height of each."""
    from_image: bool = False
    chosen: bool = False

    def follow(self, width: int, height: int) -> Size | None:
        """Return the size that comes out where this one is asked for; None where none can be asked for."""
        if self.chosen:
            return width, height
        if self.area is not None:
            scale = math.sqrt(self.area / (width * height))
            return self._rounded(width * scale), self._rounded(height * scale)
        if self.sizes:
            exact = [size for size in self.sizes if size == (width, height)]
            return (exact or [min(self.sizes, key=lambda size: abs(size[0] / size[1] - width / height))])[0]
        return None

    def problem(self, width: int, height: int) -> str | None:
        """Say what is wrong with asking for a size; None if it comes out as it is."""
        made = self.follow(width, height)
        if made is None:
            return f"they cannot be chosen: {self.describe()} (leave them out)"
        if made == (width, height):
            return None
        return f"{width}x{height} would come out as {made[0]}x{made[1]}: {self.describe()} (ask for that size)"

    def describe(self) -> str:
        """Say the rule in words."""
        if self.scale is not None:
            return f"the output is {self.scale} times as wide and as high as the input image"
        if self.area is not None:
            return f"the output has about {self.area} pixels, its sides are multiples of {self.multiple_of}"
        if self.sizes:
            return "the output is one of " + ", ".join(f"{width}x{height}" for width, height in self.sizes)
        return "the size follows from the input image"

    def _rounded(self, side: float) -> int:
        steps = side / self.multiple_of
        return max(1, round(steps) if self.nearest else math.floor(steps)) * self.multiple_of

    @classmethod
    def from_card(cls, data: Mapping[str, Any]) -> OutputSize:
        """Build a rule from a card's mapping, which `output_size_problems` found sound."""
        return cls(**{**data, "sizes": tuple((size[0], size[1]) for size in data.get("sizes", ()))})


def output_size_problems(data: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with a card's mapping, as (key, message)."""
    known = [field.name for field in fields(OutputSize)]
    if not isinstance(data, Mapping):
        yield (), "is not a mapping with scale, area, sizes or from_image"
        return
    yield from (((key,), f"unknown field (known: {', '.join(known)})") for key in data if key not in known)
    ways = [key for key in ("scale", "area", "sizes", "from_image") if data.get(key)]
    if len(ways) != 1:
        yield (), "needs exactly one of scale, area, sizes and from_image"
    for key in ("scale", "area", "multiple_of"):
        if key in data and not _is_count(data[key]):
            yield (key,), "is not a whole number above 0"
    for key in ("nearest", "from_image", "chosen"):
        if not isinstance(data.get(key, False), bool):
            yield (key,), "is neither true nor false"
    sizes = data.get("sizes", [])
    if not isinstance(sizes, list) or not all(
        isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)) for size in sizes
    ):
        yield ("sizes",), "is not a list of [width, height]"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
