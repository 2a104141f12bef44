"""What every model of a document is made of: the strict model, and types for what YAML writes another way."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

#: Context of validation: the data is what the record of a run says, not what a person wrote.
IN_RECORD = "record"


class StrictModel(BaseModel):
    """Frozen, no unknown field, no silent coercion of a string to a number, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    #: How a message describes such a value.
    written: ClassVar[str] = "a mapping"
    #: Fields that a document does not write.
    unwritten: ClassVar[frozenset[str]] = frozenset()


class UndocumentedModel(StrictModel):
    """A strict model whose docstrings are for readers of the code: pydantic takes milliseconds to collect them."""

    model_config = ConfigDict(use_attribute_docstrings=False)


def tuple_from_list(value: object) -> object:
    """YAML has lists where the frozen model has tuples."""
    return tuple(value) if isinstance(value, list) else value


def float_from_int(value: object) -> object:
    """Return a float for an integer: YAML writes 5 where 5.0 is meant, and strict mode would refuse some of them."""
    # Beyond 2**53 digits would be lost.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(float_from_int)]
Text = Annotated[str, StringConstraints(min_length=1)]
StrTuple = Annotated[tuple[Text, ...], BeforeValidator(tuple_from_list)]
