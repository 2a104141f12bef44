"""What one parameter of a task may be: the rules that a card writes, and what is wrong with a value that breaks them.

Messages are tails without a place: the caller knows file and line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_serializer, model_validator

from abstractvision_batch.documents.messages import FieldProblems
from abstractvision_batch.documents.strict_model import UndocumentedModel, tuple_from_list
from abstractvision_batch.text.suggestions import did_you_mean

#: `int` and `number` exclude booleans; `image` is a file reference or encoded bytes, `images` several, whose number
#: `min` and `max` bound.
ParamType = Literal["int", "number", "bool", "string", "image", "images", "list"]

STANDARD_PARAMS: Mapping[str, ParamType] = MappingProxyType(
    {
        "prompt": "string",
        "negative_prompt": "string",
        "image": "image",
        "mask": "image",
        "reference_image": "image",
        "images": "images",
        "last_image": "image",
        "control": "images",
        "angles": "list",
        "width": "int",
        "height": "int",
        "num_frames": "int",
        "fps": "number",
        "steps": "int",
        "guidance_scale": "number",
        "strength": "number",
        "seed": "int",
    }
)
"""Types of the parameters that mean the same for every model; a card gives the type of any other that it declares."""


def _require_single(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float | None):
        raise ValueError("is not a single value")
    return value


def _require_single_or_list(value: Any) -> Any:
    for item in value if isinstance(value, list) else [value]:
        _require_single(item)
    return value


class ParamRule(UndocumentedModel):
    """What one parameter of one task may be. `None` in a field means no such rule."""

    required: bool = False
    default: Annotated[Any, AfterValidator(_require_single_or_list)] = None
    min: int | float | None = None
    max: int | float | None = None
    multiple_of: Annotated[int, Field(ge=1)] | None = None
    remainder: Annotated[int, Field(ge=0)] = 0
    """With `multiple_of`: values are `multiple_of * k + remainder` (Wan's num_frames are 4k + 1)."""
    enum: (
        Annotated[
            tuple[Annotated[Any, AfterValidator(_require_single)], ...],
            BeforeValidator(tuple_from_list),
            Field(min_length=1),
        ]
        | None
    ) = None
    const: Annotated[Any, AfterValidator(_require_single)] = None
    supported: bool = True
    """False: the model's pipeline takes the parameter and ignores it, or has none, so setting it is an error."""
    description: str = ""
    type: ParamType | None = None

    @model_validator(mode="after")
    def _rules_agree(self) -> ParamRule:
        # Rules that contradict each other say nothing useful of a value.
        found = list(self._disagreements()) or list(self._wrong_values())
        problems = [((key,), what) for key, what in found]
        if problems:
            raise FieldProblems(problems)
        return self

    def _disagreements(self) -> Iterator[tuple[str, str]]:
        if self.min is not None and self.max is not None and self.min > self.max:
            yield "max", f"{self.max} is below min {self.min}"
        if self.remainder and (self.multiple_of is None or self.remainder >= self.multiple_of):
            yield "remainder", "needs a larger multiple_of"
        if self.multiple_of is not None and self.type not in ("int", None):
            yield "multiple_of", f"is for whole numbers, and this parameter is of type {self.type}"
        if not self.supported and self._written().keys() - {"required", "supported", "description", "type"}:
            yield "supported", "is false, so no other rule can hold (keep only this one)"

    def _wrong_values(self) -> Iterator[tuple[str, str]]:
        named = {"default": self.default, "const": self.const}
        values = [(key, value) for key, value in named.items() if value is not None]
        for key, value in values + [("enum", value) for value in self.enum or ()]:
            if problem := self.problem(value):
                yield key, problem

    @model_serializer
    def _written(self) -> dict[str, Any]:
        """Every rule that is not at its default; `required` always, as the older registry had it."""
        fields = type(self).model_fields
        written = {name: value for name, value in self if value != fields[name].default}
        return {"required": self.required, **written}

    def to_json(self) -> dict[str, Any]:
        """Return the rules as JSON types, without those at their defaults."""
        return self.model_dump(mode="json")

    def problem(self, value: object) -> str | None:
        """Say what is wrong with a value; None if the rules allow it."""
        problem = self.open_problem(value)
        return problem and f"{problem})"

    def open_problem(self, value: object) -> str | None:
        """Say what is wrong with a value, with a parenthesis left open for the caller to add to, and to close."""
        return _check_type(self.type, value) or self._check_value(value)

    def describe(self) -> str:
        """Say in words which values are allowed; empty when any value of the type is."""
        if self.const is not None:
            return f"only {_show(self.const)}"
        if self.enum is not None:
            return "one of " + ", ".join(_show(value) for value in self.enum)
        low, high = (None if bound is None else _show(bound) for bound in (self.min, self.max))
        span = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""
        if self.multiple_of is None:
            return span
        step = f"multiples of {self.multiple_of}" + (f" plus {self.remainder}" if self.remainder else "")
        return f"{step}, {span}" if span else step

    def nearest_valid(self, value: float) -> list[float]:
        """Return up to two allowed values on either side of one that breaks `min`, `max` or `multiple_of`."""
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if self.multiple_of is None:
            return [min(max(value, low), high)]
        step, first = self.multiple_of, self.remainder
        inside = min(max(value, low, 1), high)
        below = (math.floor(inside) - first) // step * step + first
        fits = [v for v in (below, below + step) if max(low, 1) <= v <= high]
        return [min(fits, key=lambda v: abs(v - value))] if fits and inside != value else list(fits)

    def _check_value(self, value: Any) -> str | None:
        if self.const is not None:
            return None if _equal(value, self.const) else f"{_show(value)} is not allowed (only {_show(self.const)}"
        if self.enum is not None and not any(_equal(value, allowed) for allowed in self.enum):
            guess = did_you_mean(value, map(str, self.enum)) if isinstance(value, str) else None
            hint = f"did you mean {guess}? " if guess else ""
            return f"{_show(value)} is not allowed ({hint}allowed: {self.describe()}"
        if self.type == "images":
            return self._check_number_of(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if self.min is not None and value < self.min:
            return f"{_show(value)} is below the minimum {_show(self.min)} ({self._ways_out(value)}"
        if self.max is not None and value > self.max:
            return f"{_show(value)} is above the maximum {_show(self.max)} ({self._ways_out(value)}"
        if self.multiple_of is not None and (value - self.remainder) % self.multiple_of:
            plus = f" plus {self.remainder}" if self.remainder else ""
            return f"{_show(value)} is not a multiple of {self.multiple_of}{plus} ({self._ways_out(value)}"
        return None

    def _check_number_of(self, pictures: Any) -> str | None:
        count = len(pictures)
        if (self.min or 0) <= count <= (count if self.max is None else self.max):
            return None
        return f"{count} picture{'' if count == 1 else 's'} (allowed: {self.describe()}"

    def _ways_out(self, value: float) -> str:
        near = self.nearest_valid(value)
        allowed = self.describe()
        nearest = f"nearest: {', '.join(_show(v) for v in near)}" if near else ""
        if self.multiple_of is not None and self.min is None and self.max is None:
            return nearest  # the message already names the multiple
        return f"allowed: {allowed}; {nearest}" if nearest else f"allowed: {allowed}"


def _check_type(kind: str | None, value: object) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "int" and not whole:
        return f"{_show(value)} is not a whole number (write one without quotes or a decimal point"
    if kind == "number" and not (whole or (isinstance(value, float) and math.isfinite(value))):
        return f"{_show(value)} is not a number (write one without quotes"
    if kind == "bool" and not isinstance(value, bool):
        return f"{_show(value)} is not true or false (write true or false without quotes"
    if kind == "string" and not isinstance(value, str):
        return f"{_show(value)} is not a text (put it in quotes"
    if kind in ("list", "images") and not isinstance(value, list | tuple):
        return f"{_show(value)} is not a list (write [a, b]"
    return None


def _equal(value: object, allowed: object) -> bool:
    """`True == 1` in Python; in a spec they are different things, while 1 and 1.0 are not."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed


def _show(value: object) -> str:
    """A value as YAML would have it, cut to what fits a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:  # str() of a huge integer raises
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
