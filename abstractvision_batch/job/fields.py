"""Types of fields of the job spec, with the limits of their values."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from abstractvision_batch.documents.strict_model import StrictModel, Text, float_from_int
from abstractvision_batch.job.marks import LocalPath
from abstractvision_batch.media.frame_rates import read_fps, tidy_fps

Auto = Literal["auto"]
MAX_SEED = 2**63 - 1
MAX_SIDE = 16384
MAX_STEPS = 10_000


#: A whole one stays an `int`: request ids and fingerprints rest on how it is written.
FrameRate = Annotated[
    float, BeforeValidator(float_from_int), BeforeValidator(read_fps), Field(ge=1, le=1000), AfterValidator(tidy_fps)
]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


#: Of a thing that a spec names and refers to.
OwnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _require_regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


RegularExpression = Annotated[str, AfterValidator(_require_regular_expression)]
WeightsPath = Annotated[Text, LocalPath()]


class FromEnv(StrictModel):
    """A secret by the name of the environment variable that holds it: `{env: NAME}`."""

    written: ClassVar[str] = "{env: NAME}"

    env: EnvName
    """Name of an environment variable: letters, digits and underscores."""
