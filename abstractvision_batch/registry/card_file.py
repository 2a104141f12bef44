"""One file of model cards: `cards: [...]` or one card. Top-level keys that start with `x-` are a place for anchors.

Not covered: which files there are (`cards`), what a card may say (`model_card`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from abstractvision_batch.documents.messages import explain
from abstractvision_batch.documents.positions import FieldPath, Positions, broken_paths, plain_value, show
from abstractvision_batch.documents.strict_model import StrictModel
from abstractvision_batch.documents.yaml_reader import Kind, read_yaml
from abstractvision_batch.errors import SpecError
from abstractvision_batch.registry.capabilities_json import (
    cards_of_capabilities,
    is_capabilities_json,
    validate_capabilities_json,
)
from abstractvision_batch.registry.likeness import NO_BASES, Bases
from abstractvision_batch.registry.model_card import IN_FILE, ModelCard

#: Aliases make a small file large.
CARDS = Kind("card file", if_missing="docs/model-cards.md has an example", max_values=200_000)


class _CardFile(StrictModel):
    cards: Annotated[list[ModelCard], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class CardFile:
    """A file of cards as it is written, unchecked."""

    origin: str
    """The file's name in messages."""
    data: dict[str, Any]
    """One card, or a list of them under `cards`."""
    positions: Positions
    broken: frozenset[FieldPath]
    """Paths of scalars that the reader has already complained about."""
    problems: tuple[str, ...]

    @property
    def written(self) -> list[Any]:
        """The cards as they are written."""
        cards = self.data.get("cards", [self.data])
        return cards if isinstance(cards, list) else []

    @property
    def ids(self) -> list[str]:
        """Their ids, as far as they have some."""
        return [card["id"] for card in self.written if isinstance(card, dict) and isinstance(card.get("id"), str)]


def read_card_file(text: str, origin: str) -> CardFile:
    """Read a file of cards, checking nothing but that it is one.

    Raises:
        SpecError: it is not; `problems` has a line for each fault.
    """
    root, lines = read_yaml(text, origin, CARDS)
    data = plain_value(root)
    if not isinstance(data, dict):
        what = f"a card file is a mapping with a list of cards under `cards`, or one card, not {show(data)}"
        raise _one_problem(f"{origin}:{root.line}:{root.column}: {what}")
    positions = Positions(origin, root)
    if is_capabilities_json(data):
        try:
            validate_capabilities_json(data)
        except ValueError as exc:
            raise _one_problem(f"{origin}: {exc}") from exc
        data, positions = {"cards": cards_of_capabilities(data)}, Positions(origin)
    if "cards" in data:
        data = {key: value for key, value in data.items() if not key.startswith("x-")}
    return CardFile(origin, data, positions, frozenset(broken_paths(root)) if lines else frozenset(), tuple(lines))


def parse_cards(given: str | CardFile, origin: str = "", bases: Bases = NO_BASES) -> tuple[list[ModelCard], list[str]]:
    """Return the cards of a file, and a `file:line:column: field: what (what would do)` line for each fault.

    Args:
        given: the file's text, or the file as it was read.
        origin: the file's name in messages, of a text.
        bases: what its cards may be `like`.
    """
    try:
        file = read_card_file(given, origin) if isinstance(given, str) else given
    except SpecError as exc:
        return [], list(exc.problems)
    data, model = file.data, ModelCard if "cards" not in file.data else _CardFile
    problems = {} if model is ModelCard else _find_repeated_ids(data["cards"])
    merged: list[Any] = []
    for number, card in enumerate(file.written):
        try:
            merged.append(bases.complete(card))
        except ValueError as exc:
            problems[(("cards", number, "like") if model is _CardFile else ("like",))] = str(exc)
            merged.append({key: value for key, value in card.items() if key != "like"})
    if merged:
        data = {**data, "cards": merged} if model is _CardFile else merged[0]
    try:
        found = model.model_validate(data, context=IN_FILE)
    except ValidationError as exc:
        lacking = {path[:-1] for path in problems if path[-1] == "like"}  # the rest of such a card is unknown
        depth = 0 if model is ModelCard else 2
        problems |= {path: what for path, what in explain(exc, data, model).items() if path[:depth] not in lacking}
    ordered = sorted((path for path in problems if path not in file.broken), key=file.positions.sort_key)
    if lines := [*file.problems, *(file.positions.problem(path, problems[path]) for path in ordered)]:
        return [], lines
    return [card.model_copy(update={"origin": file.origin}) for card in getattr(found, "cards", [found])], []


def _one_problem(line: str) -> SpecError:
    return SpecError(line, problems=(line,))


def _find_repeated_ids(cards: Any) -> dict[FieldPath, str]:
    problems: dict[FieldPath, str] = {}
    seen = set[str]()
    for number, card in enumerate(cards if isinstance(cards, list) else ()):
        name = card.get("id") if isinstance(card, dict) else None
        if isinstance(name, str):
            if name in seen:
                problems["cards", number, "id"] = f"{name!r} is in this file twice (one card per id)"
            seen.add(name)
    return problems
