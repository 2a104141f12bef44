"""Sizes of requests with an input picture: as asked, or as follows from the picture where one side alone is asked for.

    nothing asked, no default of the card → none: the backend takes the picture's own size
    one side asked                        → the other by the picture's aspect, rounded to the model's multiple
    both asked, or the card's defaults    → these; with `prompts.fit: error` they have the picture's aspect

Not covered: bringing the pixels to that size (`media.inputs`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.job.check import asked_sizes
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.points import expand_points
from abstractvision_batch.registry.constraints import check_param, default_params
from abstractvision_batch.registry.model_card import ModelCard

#: A side that is a larger multiple is rounded to the nearest; up to this, rounding up or down is rounding too.
_SMALL_MULTIPLE = 16

Size = tuple[int | None, int | None]


class SizePlanner:
    """Decides the sizes of one job's requests."""

    def __init__(self, spec: JobSpec, card: ModelCard) -> None:
        self._spec = spec
        self._card = card
        defaults = default_params(card, spec.task)
        self._defaults: Size = (defaults.get("width"), defaults.get("height"))
        rules = card.tasks[spec.task].params
        consts = (rules[side].const if side in rules else None for side in ("width", "height"))
        self._consts = tuple(consts)
        multiples = (rules[side].multiple_of or 1 if side in rules else 1 for side in ("width", "height"))
        self._multiples = tuple(math.lcm(value, spec.backend.side_multiple) for value in multiples)
        asked = [self.asked(point, (None, None)) for point in expand_points(spec, card, ("width", "height"))]
        self._asked_at_points = list(dict.fromkeys(asked))

    def asked(self, point: Mapping[str, Any], own: Size) -> Size:
        """What the row, else the point, else the spec asks for."""
        params = self._spec.params
        given = (point.get("width", params.width), point.get("height", params.height))
        return tuple(mine if mine is not None else other for mine, other in zip(own, given, strict=True))  # type: ignore[return-value]

    def check(self, image: tuple[int, int], own: Size) -> None:
        """Check one row at every point of the matrix.

        Raises:
            ValueError: its picture does not go with a size that is asked for.
        """
        for given in self._asked_at_points:
            self.choose(image, tuple(mine or other for mine, other in zip(own, given, strict=True)))  # type: ignore[arg-type]

    def choose(self, image: tuple[int, int], asked: Size) -> Size:
        """Return the size of a request.

        Args:
            image: Width and height of its picture, upright.
            asked: Width and height, as far as they are asked for.

        Raises:
            ValueError: the picture has another aspect, or the side that follows from it is more than the model takes.
        """
        by_card = ""
        if asked == (None, None):
            asked = self._defaults
            by_card = ", the card's default"
        elif None in asked:
            asked = tuple(mine or const for mine, const in zip(asked, self._consts, strict=True))  # type: ignore[assignment]
        width, height = asked
        if width is None and height is None:
            return None, None
        if width is None or height is None:
            return self._complete(image, width, height)
        if self._spec.prompts.fit == "error" and not same_aspect(image, (width, height), self._multiples):
            raise ValueError(
                f"{image[0]}x{image[1]} has another aspect than {width}x{height}{by_card} (write prompts.fit: crop, "
                "pad or stretch, or give one of width and height: the other follows from the picture)"
            )
        return width, height

    def _complete(self, image: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
        size = complete_size(image, width, height, self._multiples)
        name, side = ("height", size[1]) if width is not None else ("width", size[0])
        if said := check_param(self._card, self._spec.task, name, side):
            raise ValueError(f"{image[0]}x{image[1]} makes {name} {side} where the other side is given: {said}")
        return size


def complete_size(
    image: tuple[int, int], width: int | None, height: int | None, multiples: tuple[int, ...]
) -> tuple[int, int]:
    """The size of which one side is given: the other has the picture's aspect, rounded to its multiple."""
    if width is not None:
        return width, _rounded(image[1] * width / image[0], multiples[1])
    assert height is not None
    return _rounded(image[0] * height / image[1], multiples[0]), height


def same_aspect(image: tuple[int, int], size: tuple[int, int], multiples: tuple[int, ...]) -> bool:
    """Whether one side is what rounding the exact one to its multiple gives."""
    exact = (image[0] * size[1] / image[1], image[1] * size[0] / image[0])
    return any(
        abs(side - wanted) < multiple if multiple <= _SMALL_MULTIPLE else abs(side - wanted) <= multiple / 2
        for side, wanted, multiple in zip(size, exact, multiples, strict=True)
    )


def _rounded(side: float, multiple: int) -> int:
    return max(1, math.floor(side / multiple + 0.5)) * multiple


class OutputSizes:
    """Refuses sizes of single rows that the model would change into others, as its card says."""

    def __init__(self, spec: JobSpec, card: ModelCard) -> None:
        self._origin = card.origin
        self._rule = card.output_size(spec.backend.kind, spec.task)
        self._masked_rule = card.output_size(spec.backend.kind, "inpaint") or self._rule
        defaults = default_params(card, spec.task)
        self._defaults = (defaults.get("width"), defaults.get("height"))
        self._asked = asked_sizes(spec, card)

    def check(self, own: Size, *, masked: bool) -> None:
        """Check one row; `own` is what it asks for itself.

        Raises:
            ValueError: another size would come out.
        """
        rule = self._masked_rule if masked else self._rule
        if rule is None:
            return
        for given in self._asked:
            asked = tuple(mine or other for mine, other in zip(own, given, strict=True))
            if asked == (None, None):
                continue
            width, height = (side or usual for side, usual in zip(asked, self._defaults, strict=True))
            if width is not None and height is not None and (said := rule.problem(width, height)):
                raise ValueError(f"width and height: {said[:-1]}; {self._origin})")


def same_shape(image: tuple[int, int], mask: tuple[int, int]) -> bool:
    """Whether a mask can be laid over a picture by scaling it: its aspect differs by a pixel of rounding at most."""
    smaller, larger = sorted((image, mask))
    return any(abs(smaller[one] - larger[one] * smaller[other] / larger[other]) <= 1 for one, other in ((0, 1), (1, 0)))
