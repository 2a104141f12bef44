"""Cards that are `like` another: what they say themselves, over what the other says.

Mappings are merged at every level, anything else is replaced, `null` takes a value away. Of the other card stays behind
what is about its own weights and its own names: where they are, whether they are gated, its aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.model_names import suggest_model

LIKE = "like"
_OWN = ("id", "aliases", "gated", "origin", LIKE)
#: What a card says of a backend that is about its own weights.
_OWN_WEIGHTS = ("repo_id", "repo_ids", "path", "revision", "variant", "subfolder")


@dataclass(frozen=True, slots=True)
class Bases:
    """What a card may be like, by id: cards as they are written, and those that were checked before."""

    written: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checked: Mapping[str, ModelCard] = field(default_factory=dict)

    def complete(self, card: Any, chain: tuple[str, ...] = ()) -> Any:
        """Return a card with what the one that it is like adds; any other as it is.

        Raises:
            ValueError: there is no such card, or it leads back to this one.
        """
        if not isinstance(card, dict) or LIKE not in card:
            return card
        name, own = card[LIKE], card.get("id")
        if not isinstance(name, str):
            raise ValueError("is not the id of a card")
        chain = (*chain, own) if isinstance(own, str) else chain
        # a card that is like its own id changes parts of the one that it stands for
        if name in self.written and name != own:
            if name in chain:
                raise ValueError(f"leads back to itself ({' → '.join((*chain, name))})")
            base = self.complete(dict(self.written[name]), chain)
        elif name in self.checked:
            base = self.checked[name].to_json()
        elif name == own:
            raise ValueError("is this card itself (name another)")
        else:
            near = suggest_model(name, [*self.written, *self.checked])
            hint = f"did you mean {near}?" if near else "`avbatch models` lists them"
            raise ValueError(f"no card has the id {name!r} ({hint})")
        over = {key: value for key, value in card.items() if key != LIKE}
        return _merged(_inherited(base, keep_weights=name == own), over)


NO_BASES = Bases()


def _inherited(base: Mapping[str, Any], *, keep_weights: bool) -> dict[str, Any]:
    found = {key: value for key, value in base.items() if key not in _OWN}
    backends = found.get("backends")
    if keep_weights or not isinstance(backends, Mapping):
        return found
    found["backends"] = {
        kind: {key: value for key, value in needs.items() if key not in _OWN_WEIGHTS}
        if isinstance(needs, Mapping)
        else needs
        for kind, needs in backends.items()
    }
    return found


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and value.get("supported") is not False:
            found[key] = _merged(below, value)
        else:
            found[key] = value
    return found
