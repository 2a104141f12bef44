"""Ranges of a spec: `{from: 1, to: 9, step: 2}` is the list of its values once the spec is read.

Decimals are counted exactly, so that `{from: 0, to: 1, step: 0.1}` has 0.3 in it and ends with 1.0.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, create_model

from abstractvision_batch.documents.messages import FieldProblems
from abstractvision_batch.documents.strict_model import StrictModel

MAX_VALUES = 10_000
"""Of one list or range."""


class _RangeModel(StrictModel):
    written: ClassVar[str] = "a range {from: 1, to: 9, step: 2}"


_FIELDS: dict[str, Any] = {
    "from": (int | float, Field(description="The first value.")),
    "to": (int | float, Field(description="The last value, where a step meets it.")),
    "step": (int | float, Field(1, description="From each value to the next; below 0, values fall.")),
}
#: A class statement cannot have a field `from`.
Range: Any = create_model("Range", __base__=_RangeModel, __doc__="The values from one number to another.", **_FIELDS)


def list_values(value: Any) -> Any:
    """Return the values of a range, whole ones where its three numbers are; a list stays as it is.

    Raises:
        ValueError: it has no value, no end or too many values.
    """
    if not isinstance(value, Range):
        return value
    numbers = [getattr(value, name) for name in ("from", "to", "step")]
    first, last, step = (Fraction(str(number)) for number in numbers)
    if step == 0:
        raise FieldProblems([(("step",), "0 never comes to an end (give the distance from each value to the next)")])
    count = (last - first) // step + 1
    if count < 1:
        said = f"is empty: steps of {numbers[2]} do not lead from {numbers[0]} to {numbers[1]}"
        raise ValueError(f"{said} (swap from and to, or turn the sign of step)")
    if count > MAX_VALUES:
        shown = f"{count:,}" if count < 10**12 else "far too many"
        raise ValueError(f"has {shown} values, and a list at most {MAX_VALUES:,} (make step larger)")
    form = int if all(isinstance(number, int) for number in numbers) else float
    return [form(first + index * step) for index in range(count)]


#: Checked one by one against `Params` and the model's card (`check`).
ParamValues = Annotated[Annotated[list[Any], Field(max_length=MAX_VALUES)] | Range, AfterValidator(list_values)]
