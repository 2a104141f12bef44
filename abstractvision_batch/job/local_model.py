"""Models that are files of this machine, and those without a card: where they are, and the card that describes them.

`model: ./my-finetune` is a folder or a file, relative to the spec; anything else is the id of a card or of a repository
on the hub. Which of both it is shows in how it is written, never in what happens to exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from abstractvision_batch.backends.table import derive_card
from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.job.marks import LocalPath
from abstractvision_batch.job.model import BackendSpec, JobSpec
from abstractvision_batch.job.walk import FieldValue, find_parts, put_value
from abstractvision_batch.registry.model_names import suggest_model

if TYPE_CHECKING:
    from abstractvision_batch.registry.cards import Cards

_BEGINNINGS = ("./", "../", "/", "~")
_ENDINGS = (".safetensors", ".ckpt", ".gguf")


def is_path(model: str) -> bool:
    """Whether a spec's model is a folder or a file, not an id."""
    return model.startswith(_BEGINNINGS) or model.endswith(_ENDINGS)


def local_path(base_dir: Path, text: str) -> str:
    """Return a path of a spec made absolute; a URL, or an absolute path, stays as it is."""
    return text if "://" in text else str((base_dir / Path(text).expanduser()).absolute())


def find_model_paths(spec: JobSpec) -> Iterator[tuple[FieldValue, LocalPath]]:
    """Yield the paths that the backend's fields hold, as they are written, with their marks."""
    for part in find_parts(type(spec.backend), spec.backend, LocalPath, ("backend",)):
        if (mark := part.mark(LocalPath)) is not None and isinstance(part.value, str):
            yield part, mark


def resolve_backend(spec: JobSpec, base_dir: Path) -> BackendSpec:
    """Return the backend section with local paths made absolute, that of the model among them."""
    backend = spec.backend
    for part, mark in find_model_paths(spec):
        path = local_path(base_dir, part.value)
        if not mark.or_hub_id or Path(path).exists():
            backend = put_value(backend, part.path[1:], path)
    return backend.at_path(local_path(base_dir, spec.model)) if is_path(spec.model) else backend


def settle_model(
    spec: JobSpec, cards: Cards, base_dir: Path, ignore: frozenset[FieldPath]
) -> tuple[JobSpec, Cards, dict[FieldPath, str]]:
    """Return the spec by the id of its model where it names an alias, and the cards with one that its files describe.

    Args:
        spec: the spec.
        cards: the registry.
        base_dir: where relative paths start.
        ignore: fields of the spec that are wrong anyway.

    Returns:
        The spec, the cards, and what is wrong with a model that has no card.
    """
    found = cards.find(spec.model)
    if found is not None:
        return spec.model_copy(update={"model": found.id}) if found.id != spec.model else spec, cards, {}
    if any(path[0] in ("model", "backend") for path in ignore):
        return spec, cards, {}
    try:
        card = derive_card(resolve_backend(spec, base_dir), model=spec.model)
    except DependencyError as error:
        near = suggest_model(spec.model, cards)
        named = is_path(spec.model) or near is None
        said = f"no card has the id {show(spec.model)} (did you mean {near}?)"
        return spec, cards, {("model",): f"no card has this id, and {error}" if named else said}
    return spec, (cards.joined_by({card.id: card}) if card is not None else cards), {}
