"""Which model a wrong name was meant to be."""

from __future__ import annotations

from collections.abc import Collection

from abstractvision_batch.text.suggestions import did_you_mean, squeeze


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
