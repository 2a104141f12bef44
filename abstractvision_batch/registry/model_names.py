"""Names of models: the card that an id or an alias stands for, and the one that a wrong name was meant to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.text.suggestions import did_you_mean, squeeze


def find_card(cards: Mapping[str, ModelCard], name: str) -> ModelCard | None:
    """Return the card of an id, or that of which it is an alias."""
    if name in cards:
        return cards[name]
    return next((card for card in cards.values() if name in card.aliases), None)


def suggest_model(word: str, ids: Collection[str]) -> str | None:
    """Return the model that was meant: the same name of another owner, one that has the word in it, or a near one.

    Owners, case, dashes and dots are left out of the comparison; of several that have the word, the shortest is meant.
    """
    plain = _plain(word)
    if not plain:
        return None
    same = [one for one in ids if _plain(one) == plain]
    inside = [one for one in ids if len(plain) >= 3 and plain in squeeze(one).replace(".", "")]
    chosen = same or inside
    return min(chosen, key=lambda one: (len(one), one)) if chosen else did_you_mean(word, ids)


def _plain(name: str) -> str:
    return squeeze(name.rstrip("/").rpartition("/")[2]).replace(".", "")
