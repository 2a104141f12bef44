"""Random search: points whose parameters are drawn, the same ones on every machine and for ever.

A value is a function of the job's seed, the number of the draw and the parameter's name alone. So a larger `n` adds
points and changes none, and so does a further parameter with the values of the others. Points that were drawn before
are passed over: `n` different ones come out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterator
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from abstractvision_batch.documents.messages import FieldProblems
from abstractvision_batch.documents.strict_model import StrictModel
from abstractvision_batch.job.param_names import require_other
from abstractvision_batch.job.ranges import MAX_VALUES, ParamValues

_Ends = Annotated[list[int | float], Field(min_length=2, max_length=2)]
_WholeEnds = Annotated[list[int], Field(min_length=2, max_length=2)]
_HASH_BITS = 64
#: Numbers as people write them; beyond this, machines differ in their logarithms.
_DIGITS = 6


class Distribution(StrictModel):
    """What a parameter is drawn from: one of these."""

    written: ClassVar[str] = "a distribution {uniform: [1, 9]}"

    uniform: _Ends | None = None
    """Numbers between two, each as likely."""
    loguniform: _Ends | None = None
    """Numbers between two above 0, each order of magnitude as likely."""
    int: _WholeEnds | None = None
    """Whole numbers from one to another, both included."""
    choice: ParamValues | None = None
    """Values of a list or range."""

    @model_validator(mode="after")
    def _is_one(self) -> Distribution:
        kinds = list(type(self).model_fields)
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            said = f"has {' and '.join(given)}" if given else "says nothing"
            raise ValueError(f"{said} (give one of {', '.join(kinds)})")
        kind, values = given[0], getattr(self, given[0])
        if kind == "choice":
            problem = None if values else "is an empty list (give values)"
        elif values[0] >= values[1]:
            problem = f"{values[0]} is not below {values[1]} (write the lower end first)"
        else:
            problem = "a logarithm needs ends above 0" if kind == "loguniform" and values[0] <= 0 else None
        if problem is not None:
            raise FieldProblems([((kind,), problem)])
        return self

    @property
    def kind(self) -> str:
        """Which of the fields it has."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> list[Any]:
        """The two ends, or the choices."""
        return list(getattr(self, self.kind))

    @property
    def size(self) -> float:
        """How many values there are to draw; infinity of numbers between two."""
        if self.choice is not None:
            return len(self.choice)
        return math.inf if self.int is None else self.int[1] - self.int[0] + 1

    def pick(self, number: Any) -> Any:
        """Return the value that a whole number from 0 to 2**64 - 1 stands for."""
        if self.choice is not None:
            return self.choice[number * len(self.choice) >> _HASH_BITS]
        if self.int is not None:
            return self.int[0] + (number * (self.int[1] - self.int[0] + 1) >> _HASH_BITS)
        low, high = self.values
        share = number / 2**_HASH_BITS
        linear = self.uniform is not None
        value = low + (high - low) * share if linear else low * math.exp(math.log(high / low) * share)
        return min(max(float(f"{value:.{_DIGITS}g}"), float(low)), float(high))


class DrawSpec(StrictModel):
    """Points of a random search: how many, and what each parameter is drawn from; `extra.NAME` and so on too."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(require_other)], Distribution] = Field(init=False)

    written: ClassVar[str] = "a mapping {n: 20, guidance_scale: {uniform: [1, 9]}}"

    n: Annotated[int, Field(ge=1, le=MAX_VALUES)]
    """How many points; a larger number adds to them."""
    negative_prompt: Distribution | None = None
    width: Distribution | None = None
    height: Distribution | None = None
    steps: Distribution | None = None
    guidance_scale: Distribution | None = None
    strength: Distribution | None = None
    num_frames: Distribution | None = None
    fps: Distribution | None = None
    seed: Distribution | None = None

    @model_validator(mode="after")
    def _draws_something(self) -> DrawSpec:
        if not self.parameters:
            raise ValueError("draws no parameter (add one, as guidance_scale: {uniform: [1, 9]})")
        return self

    @property
    def parameters(self) -> dict[str, Distribution]:
        """What each drawn parameter is drawn from."""
        names = (name for name in type(self).model_fields if name != "n")
        own = {name: drawn for name in names if (drawn := getattr(self, name)) is not None}
        return {**own, **(self.model_extra or {})}


def draw_points(draw: DrawSpec, seed: int) -> list[dict[str, Any]]:
    """Return the points: fewer than `n` where there are no more, or hardly any."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    wanted = min(draw.n, math.prod(drawn.size for drawn in draw.parameters.values()))
    # The last of as many values as are drawn comes after 10 times n draws, where n is 10,000.
    for index in range(1000 + 200 * draw.n):
        if len(found) == wanted:
            break
        point = dict(_draw_point(draw, seed, index))
        found.setdefault(tuple(map(_comparable, point.values())), point)
    return list(found.values())


def _comparable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else json.dumps(value, sort_keys=True)


def _draw_point(draw: DrawSpec, seed: int, index: int) -> Iterator[tuple[str, Any]]:
    for name, drawn in draw.parameters.items():
        text = f"{seed}/{index}/{name}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BITS // 8, person=b"avbatch-draw").digest())
        yield name, drawn.pick(number)
