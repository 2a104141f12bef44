"""What every part of the job spec is made of: the strict model, and types with the limits of their values."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from abstractvision_batch.media.frame_rates import read_fps, tidy_fps

Auto = Literal["auto"]
MAX_SEED = 2**63 - 1
MAX_SIDE = 16384
MAX_STEPS = 10_000


class StrictModel(BaseModel):
    """Frozen, no unknown field, no silent coercion of a string to a number, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def tuple_from_list(value: object) -> object:
    """YAML has lists where the frozen model has tuples."""
    return tuple(value) if isinstance(value, list) else value


def _float_from_int(value: object) -> object:
    # YAML writes 5 where 5.0 is meant; strict mode would refuse integers beyond 2**53 only by losing digits.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(_float_from_int)]
#: A whole one stays an `int`: request ids and fingerprints rest on how it is written.
FrameRate = Annotated[
    float, BeforeValidator(_float_from_int), BeforeValidator(read_fps), Field(ge=1, le=1000), AfterValidator(tidy_fps)
]
Text = Annotated[str, StringConstraints(min_length=1)]
StrTuple = Annotated[tuple[Text, ...], BeforeValidator(tuple_from_list)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _require_regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


RegularExpression = Annotated[str, AfterValidator(_require_regular_expression)]
#: Parameters that a server may know by another name.


class FromEnv(StrictModel):
    """A secret by the name of the environment variable that holds it: `{env: NAME}`."""

    env: EnvName
    """Name of an environment variable: letters, digits and underscores."""
