"""Which model cards there are: the packaged ones, and a user's files and folders, whose cards win.

Packaged cards are read once per process. Not covered: what a card may say (`model_card`), checking values
(`constraints`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from abstractvision_batch.documents.yaml_reader import read_file
from abstractvision_batch.errors import SpecError
from abstractvision_batch.registry.card_file import CARDS, CardFile, parse_cards, read_card_file
from abstractvision_batch.registry.likeness import Bases
from abstractvision_batch.registry.model_card import ModelCard

CARD_SUFFIXES = (".yaml", ".yml")
#: Where an installed package has the cards; pyproject.toml puts them there.
CARDS_IN_PACKAGE = "registry/cards"


def load_cards(paths: Sequence[Path] = (), *, packaged: bool = True) -> dict[str, ModelCard]:
    """Every card by model id, sorted by id.

    Args:
        paths: card files, or folders whose `*.yaml` files are cards; a later path wins over an earlier one and over
            the packaged cards.
        packaged: False leaves the packaged cards out.

    Raises:
        SpecError: a path is missing or a card is malformed; `problems` has a `file:line: what` line for each fault.
    """
    found = dict(_packaged_cards()) if packaged else {}
    problems: list[str] = []
    files = [_read_path(Path(path)) for path in paths]
    bases = _bases([file for read, _ in files for file in read], found)
    for read, faults in files:
        problems += faults
        for file in read:
            cards, wrong = parse_cards(file, bases=bases)
            problems += wrong
            found.update((card.id, card) for card in cards)
    if not problems:
        problems = [
            f"{card.origin}: {card.id}: requires.base_model_id: no card has the id {card.requires['base_model_id']!r}"
            for card in found.values()
            if card.requires.get("base_model_id", card.id) not in found
        ]
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return dict(sorted(found.items()))


def packaged_folder() -> Path:
    """Return the folder of the packaged cards: inside an installed package, at the top of a clone of the repository."""
    package = Path(__file__).parents[1]
    installed = package / CARDS_IN_PACKAGE
    return installed if installed.is_dir() else package.parent / "registry"


@cache
def _packaged_cards() -> dict[str, ModelCard]:
    paths = sorted(path for path in packaged_folder().iterdir() if path.suffix in CARD_SUFFIXES)
    files = [read_card_file(path.read_text("utf-8"), f"registry/{path.name}") for path in paths]
    bases, found = _bases(files, {}), dict[str, ModelCard]()
    for file in files:
        cards, problems = parse_cards(file, bases=bases)
        if problems:
            raise SpecError(problems[0], problems=tuple(problems))
        found.update((card.id, card) for card in cards)
    return found


def _bases(files: Sequence[CardFile], checked: Mapping[str, ModelCard]) -> Bases:
    written = {card["id"]: card for file in files for card in file.written if isinstance(card, dict) and "id" in card}
    return Bases({name: card for name, card in written.items() if isinstance(name, str)}, checked)


def _read_path(path: Path) -> tuple[list[CardFile], list[str]]:
    """Return the card files of one path, and what is wrong with them."""
    try:
        if path.is_dir():
            names = sorted(entry for entry in path.iterdir() if entry.suffix in CARD_SUFFIXES)
            if not names:
                return [], [f"{path}: no model cards in this folder (expected *.yaml)"]
        else:
            names = [path]
    except OSError as exc:
        return [], [f"{exc.filename or path}: cannot read model cards: {exc.strerror or exc}"]
    files: list[CardFile] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    for name in names:
        origin = str(name)
        try:
            file = read_card_file(read_file(name, origin, CARDS), origin)
        except SpecError as exc:
            problems += exc.problems
            continue
        files.append(file)
        for card in dict.fromkeys(file.ids):
            if card in seen:
                problems.append(f"{origin}: {card}: {seen[card]} has this id too (one card per id)")
            seen.setdefault(card, origin)
    return files, problems
