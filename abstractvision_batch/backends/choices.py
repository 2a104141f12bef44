"""What requests may say that only one backend or model knows: for people who ask before they write a spec.

Not covered: the fields of a backend's section, which are those of its model (`job.backend_section`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Choice:
    """A key of `params.extra`, or a setting of a scheduler."""

    name: str
    of: str = ""
    """The task, pipeline or dialect that takes it; empty: all."""
    type: str = ""
    default: Any = None
    """A plain value; None also where there is no such default."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """A scheduler that fits a model."""

    name: str
    is_own: bool
    """Whether the model was saved with it."""
    known_as: tuple[str, ...]
    settings: tuple[Choice, ...]
    """With the values that they have for this model where nothing else is said."""


@dataclass(frozen=True, slots=True)
class ModelChoices:
    """What requests for one model may choose."""

    extras: tuple[Choice, ...]
    schedulers: tuple[SchedulerFacts, ...] = ()
    note: str = ""
    """What is missing here, so that less is known than might be."""
