"""Which model cards there are: the packaged ones, and a user's files and folders, whose cards win.

A user's cards are checked when they are loaded, the packaged ones when they are asked for: a process needs one or two
of them, and the tests check them all. Not covered: what a card may say (`model_card`), checking values (`constraints`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from abstractvision_batch.documents.positions import Positions
from abstractvision_batch.documents.yaml_reader import read_file
from abstractvision_batch.errors import SpecError
from abstractvision_batch.registry.card_file import CARDS, CardFile, parse_cards, read_card_file
from abstractvision_batch.registry.likeness import Bases
from abstractvision_batch.registry.model_card import ModelCard

CARD_SUFFIXES = (".yaml", ".yml")
#: Where an installed package has the cards; pyproject.toml puts them there.
CARDS_IN_PACKAGE = "registry/cards"
#: How packaged files write what is known of a card before it is read: its id, then its aliases.
_NAMES = re.compile(r"^(?:  - \{?)?id: ([^\s,]+)|\baliases: \[(.+?)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Unread:
    """A packaged card that is read when it is asked for."""

    file: Path
    aliases: tuple[str, ...] = ()


class Cards(Mapping[str, ModelCard]):
    """Cards by model id, sorted by id."""

    def __init__(self, read: Mapping[str, ModelCard], unread: Mapping[str, _Unread] | None = None) -> None:
        """Join cards that are there with packaged ones, over which they win."""
        self._read = read
        self._unread = unread or {}
        self._ids = dict.fromkeys(sorted({*self._read, *self._unread}))

    def __getitem__(self, id: str) -> ModelCard:
        if id in self._read or id not in self._unread:
            return self._read[id]
        return _packaged_card(id)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, name: str) -> ModelCard | None:
        """Return the card of an id, or that of which it is an alias."""
        if name in self:
            return self[name]
        return next((self[id] for id in self if name in (self._read.get(id) or self._unread[id]).aliases), None)

    def joined_by(self, cards: Mapping[str, ModelCard]) -> Cards:
        """Return these cards and others, which win."""
        return Cards({**self._read, **cards}, self._unread)


def load_cards(paths: Sequence[Path] = (), *, packaged: bool = True) -> Cards:
    """Return every card.

    Args:
        paths: card files, or folders whose `*.yaml` files are cards; a later path wins over an earlier one and over
            the packaged cards.
        packaged: False leaves the packaged cards out.

    Raises:
        SpecError: a path is missing or a card of it is malformed; `problems` has a `file:line: what` line for each
            fault.
    """
    known = Cards({}, _packaged_cards() if packaged else None)
    found: dict[str, ModelCard] = {}
    problems: list[str] = []
    files = [_read_path(Path(path)) for path in paths]
    bases = _bases([file for read, _ in files for file in read], known)
    for read, faults in files:
        problems += faults
        for file in read:
            own, wrong = parse_cards(file, bases=bases)
            problems += wrong
            found.update((card.id, card) for card in own)
    cards = known.joined_by(found)
    if not problems:
        problems = [
            f"{card.origin}: {card.id}: requires.base_model_id: no card has the id {card.requires['base_model_id']!r}"
            for card in found.values()
            if card.requires.get("base_model_id", card.id) not in cards
        ]
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return cards


def packaged_folder() -> Path:
    """Return the folder of the packaged cards: inside an installed package, at the top of a clone of the repository."""
    package = Path(__file__).parents[1]
    installed = package / CARDS_IN_PACKAGE
    return installed if installed.is_dir() else package.parent / "registry"


@cache
def _packaged_cards() -> dict[str, _Unread]:
    found: dict[str, _Unread] = {}
    for path in packaged_folder().iterdir():
        if path.suffix in CARD_SUFFIXES:
            id = ""
            for name, aliases in _NAMES.findall(path.read_text("utf-8")):
                id = name or id
                found[id] = _Unread(path, tuple(re.split(r",\s*", aliases)) if aliases else ())
    return found


@cache
def _packaged_file(path: Path) -> CardFile:
    return read_card_file(path.read_text("utf-8"), f"registry/{path.name}")


@cache
def _packaged_card(id: str) -> ModelCard:
    unread = _packaged_cards()
    file = _packaged_file(unread[id].file)
    (written,) = [card for card in file.written if card.get("id") == id]
    alone = replace(file, data=written, positions=Positions(file.origin))
    cards, problems = parse_cards(alone, bases=Bases(checked=Cards({}, unread)))
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return cards[0]


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
