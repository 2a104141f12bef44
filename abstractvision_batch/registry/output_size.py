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
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from abstractvision_batch.documents.strict_model import UndocumentedModel, tuple_from_list

_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Size = tuple[_Count, _Count]


class OutputSize(UndocumentedModel):
    """One such rule; exactly one of `scale`, `area`, `sizes` and `from_image` is set."""

    scale: _Count | None = None
    area: _Count | None = None
    """Pixels."""
    multiple_of: _Count = 1
    """Of both sides, with `area`."""
    nearest: bool = False
    """With `area`: sides become the nearest multiple, not the next smaller one."""
    sizes: Annotated[
        tuple[Annotated[Size, BeforeValidator(tuple_from_list)], ...], BeforeValidator(tuple_from_list)
    ] = ()
    """Width and height of each."""
    from_image: bool = False
    chosen: bool = False

    @model_validator(mode="after")
    def _is_one_way(self) -> OutputSize:
        if sum(map(bool, (self.scale, self.area, self.sizes, self.from_image))) != 1:
            raise ValueError("needs exactly one of scale, area, sizes and from_image")
        return self

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
            some = [f"{width}x{height}" for width, height in self.sizes[:8]]
            return f"the output is one of {', '.join(some)}" + (" …" if len(self.sizes) > len(some) else "")
        return "the size follows from the input image"

    def _rounded(self, side: float) -> int:
        steps = side / self.multiple_of
        return max(1, round(steps) if self.nearest else math.floor(steps)) * self.multiple_of
