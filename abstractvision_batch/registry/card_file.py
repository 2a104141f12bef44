"""One file of model cards: `cards: [...]` or one card. Top-level keys that start with `x-` are a place for anchors.

Not covered: which files there are (`cards`), what a card may say (`model_card`).
"""

from __future__ import annotations

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
from abstractvision_batch.registry.model_card import IN_FILE, ModelCard

#: Aliases make a small file large.
CARDS = Kind("card file", if_missing="docs/model-cards.md has an example", max_values=200_000, merge_keys=True)


class _CardFile(StrictModel):
    cards: Annotated[list[ModelCard], Field(min_length=1)]


def parse_cards(text: str, origin: str) -> tuple[list[ModelCard], list[str]]:
    """Return the cards of a file, and a `file:line:column: field: what (what would do)` line for each fault.

    Args:
        text: the file's text.
        origin: the file's name in messages.
    """
    try:
        root, lines = read_yaml(text, origin, CARDS)
    except SpecError as exc:
        return [], list(exc.problems)
    data = plain_value(root)
    if not isinstance(data, dict):
        what = f"a card file is a mapping with a list of cards under `cards`, or one card, not {show(data)}"
        return [], [f"{origin}:{root.line}:{root.column}: {what}"]
    positions = Positions(origin, root)
    if is_capabilities_json(data):
        try:
            validate_capabilities_json(data)
        except ValueError as exc:
            return [], [f"{origin}: {exc}"]
        data, positions = {"cards": cards_of_capabilities(data)}, Positions(origin)
    model: type[_CardFile | ModelCard] = ModelCard
    problems: dict[FieldPath, str] = {}
    if "cards" in data:
        model, data = _CardFile, {key: value for key, value in data.items() if not key.startswith("x-")}
        problems = _find_repeated_ids(data["cards"])
    try:
        found = model.model_validate(data, context=IN_FILE)
    except ValidationError as exc:
        problems |= explain(exc, data, model)
    broken = set(broken_paths(root)) if lines else set()
    ordered = sorted((path for path in problems if path not in broken), key=positions.sort_key)
    if lines := [*lines, *(positions.problem(path, problems[path]) for path in ordered)]:
        return [], lines
    return [card.model_copy(update={"origin": origin}) for card in getattr(found, "cards", [found])], []


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
