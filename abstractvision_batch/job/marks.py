"""Facts about a field of the spec, said where it is declared; whoever needs one walks the models for it (`walk`).

    steps: Identity[int]    timeout_s: Runtime[Number]    vae: Identity[Annotated[Text, LocalPath()] | None]

A mark on a section or a list is that of everything in it that has no mark of its kind. A mark on a member of a union
is of that form alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


class Mark:
    """A fact about a field."""

    __slots__ = ()


class Effect(Mark, Enum):
    """Whether a field changes pixels, or which requests there are. A field of another package's backend does."""

    IDENTITY = "identity"
    RUNTIME = "runtime"


Identity = Annotated[T, Effect.IDENTITY]
Runtime = Annotated[T, Effect.RUNTIME]


@dataclass(frozen=True)
class CountsAs(Mark):
    """Values that give the same pixels have one value in the fingerprint."""

    as_counted: Callable[[Any], Any]


@dataclass(frozen=True)
class Requests(Mark):
    """The field says which requests there are: a run may be extended by another value, if that only adds some."""


@dataclass(frozen=True)
class Interpolated(Mark):
    """`${NAME}` in the text is replaced by the environment variable."""


@dataclass(frozen=True)
class Timed(Mark):
    """Time fields of a schedule are replaced: `{{ scheduled_at }}`, `{{ date }}` and so on."""


@dataclass(frozen=True)
class Uploaded(Mark):
    """A URL, or a path that starts at the current folder, which Ray copies to the workers."""


@dataclass(frozen=True)
class Outside(Mark):
    """The field makes a run reach out of its folder: what a run of a stranger would do, for `--trust`.

    `{value}` is the value, `{key}` its name in a mapping, `{name}` that of the field, `{model}` the job's model.
    """

    does: str | None = None
    with_secret: str | None = None
    """Of a value `{env: NAME}`; `{value}` is the name."""


@dataclass(frozen=True)
class LocalPath(Interpolated, Outside):
    """A file or folder on every machine of the job; a relative path starts at the spec's folder."""

    does: str | None = "load {value}"
    or_hub_id: bool = False
    """What does not exist is the id of a repository on the hub."""
    is_written: bool = False


@dataclass(frozen=True)
class FromVariable(Mark):
    """An environment variable sets the field of a backend for the command line and the plugin; no job reads it."""

    name: str = ""
    """By default `ABSTRACTVISION_<KIND>_<FIELD>`."""
    description: str = ""
    """By default the first line of the field's."""
    host: str = ""
    """Its name in the settings of AbstractCore's host, after `vision_`, if it does not follow from the variable's."""


@dataclass(frozen=True)
class Secret(Mark):
    """The user names what is in the field, and some names are of secrets, which are refused unless `{env: NAME}`."""

    named_by: Literal["key", "option", "header", "argument"]
    """`key`: of a mapping; `option`: of a store; `header`: of HTTP; `argument`: `--name=…`, or before the value."""
