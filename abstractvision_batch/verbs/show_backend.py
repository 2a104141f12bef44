"""`avbatch show-backend`: what a spec may say of a backend, and what its requests may, with one model or with any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.choices import Choice, ModelChoices
from abstractvision_batch.backends.from_environment import VARIABLES, Variable, plain_kind
from abstractvision_batch.backends.table import (
    create_backend,
    derive_card,
    list_backends,
    load_backend_class,
    load_section_class,
)
from abstractvision_batch.documents.type_words import describe
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.local_model import is_path, local_path
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.model_names import suggest_model


@dataclass(frozen=True, slots=True)
class ShownField:
    """A field of a backend's section."""

    name: str
    type: str
    """In words."""
    default: Any
    """As JSON has it; None also where it is required."""
    required: bool
    about: str


@dataclass(frozen=True, slots=True)
class ShownBackend:
    """A backend, as `avbatch show-backend` has it."""

    kind: str
    package: str
    """Name and version of the other package that brings it; empty for avbatch's own."""
    about: str
    model: str | None
    fields: tuple[ShownField, ...]
    extras: tuple[Choice, ...]
    """What it reads of `params.extra` whatever the model is."""
    of_model: ModelChoices | None
    """None where no model was named, or nothing here tells."""
    variables: tuple[Variable, ...]
    """Environment variables that set a field for `generate`, `repl` and the plugin."""
    note: str = ""


def show_backend(kind: str, model: str | None = None, *, registry_paths: Sequence[str | Path] = ()) -> ShownBackend:
    """Describe a backend, loading neither weights nor what it generates with.

    Args:
        kind: `diffusers`, `sdcpp`, …, or that of another installed package.
        model: Id of a card, id of a repository in the hub cache, or a folder or file: also say what it takes.
        registry_paths: More cards.

    Raises:
        CapabilityNotSupportedError: there is no such backend.
        DependencyError: the model is not here, or its backend is not installed.
    """
    kind = plain_kind(kind) or kind
    section = load_section_class(kind)
    extras: tuple[Choice, ...] = ()
    note = ""
    try:
        extras = load_backend_class(kind).list_extras()
    except DependencyError as error:
        if model is not None:
            raise
        note = f"what requests may say is not known: {error}"
    return ShownBackend(
        kind=kind,
        package=list_backends()[kind].package,
        about=(section.__doc__ or "").strip().partition("\n")[0],
        model=model,
        fields=tuple(_fields(section)),
        extras=extras,
        of_model=None if model is None else _choices(kind, model, registry_paths),
        variables=tuple(variable for variable in VARIABLES if variable.sets.startswith(f"{kind}.")),
        note=note,
    )


def _fields(section: type[BackendSection]) -> Iterator[ShownField]:
    for name, info in section.model_fields.items():
        required = info.is_required()
        default = None if required else info.get_default(call_default_factory=True)
        yield ShownField(
            name,
            describe(info.annotation, info.metadata),
            to_jsonable_python(default),
            required,
            (info.description or "").partition("\n")[0],
        )


def _choices(kind: str, model: str, registry_paths: Sequence[str | Path]) -> ModelChoices | None:
    if load_backend_class(kind).describe_choices is VisionBackend.describe_choices:
        return None  # making it may need a server, or a program
    section = load_section_class(kind).model_validate({"kind": kind})
    if is_path(model):
        section = section.at_path(local_path(Path(), model))
    cards = load_cards([Path(path) for path in registry_paths])
    card = cards.find(model)
    if card is None:
        try:
            card = derive_card(section, model=model)
        except DependencyError as error:
            near = None if is_path(model) else suggest_model(model, cards)
            said = f"{model}: no card has this id (did you mean {near}?)"
            raise DependencyError(said if near else str(error)) from error
    elif kind not in card.backends:
        others = ", ".join(card.backends) or "none"
        raise CapabilityNotSupportedError(f"{kind} does not run {card.id} (backends that do: {others}; {card.origin})")
    with create_backend(section, card=card, model=model if card is None else card.id) as backend:
        return backend.describe_choices()
