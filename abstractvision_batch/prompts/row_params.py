"""Parameters that a row sets for itself: text becomes a typed value, checked against its range and the model's card."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from abstractvision_batch.job.fields import MAX_SEED
from abstractvision_batch.job.model import Params
from abstractvision_batch.media.frame_rates import read_fps
from abstractvision_batch.registry.constraints import check_param
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.types import Task

_FLOATS = frozenset({"guidance_scale", "strength", "fps"})
_EXACT_FLOAT = 2**53


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


class OverrideParser:
    """Turns the cells of one job's override columns into values. Repeated cells, the usual case, are looked up."""

    def __init__(self, card: ModelCard, task: Task, *, empty_is_none: bool) -> None:
        """`empty_is_none`: an empty negative prompt says that there is none, and is not taken for absent."""
        self._empty_is_none = empty_is_none
        self._card = card
        self._task = task
        self._parse = lru_cache(maxsize=8192)(self._parse_now)

    def parse(self, name: str, cell: Any) -> Any:
        """The value of parameter `name`; None where the cell is empty.

        Raises:
            ValueError: with the message of what is wrong.
        """
        if cell == "" and name == "negative_prompt" and self._empty_is_none:
            return None if check_param(self._card, self._task, name, cell) else cell
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            return None
        if name == "negative_prompt":
            if isinstance(cell, bool) or not isinstance(cell, str | int | float):
                raise ValueError(f"{cell!r} is not a text")
            return self._checked(name, cell if isinstance(cell, str) else str(cell))
        if name == "seed":
            return self._checked(name, self._in_range(name, _number(name, cell)))
        if isinstance(cell, str | int | float):
            # True and 1 are one key of a cache; only the second is a number.
            return self._parse(name, isinstance(cell, bool), cell)
        raise ValueError(f"{cell!r} is not a number")

    def _parse_now(self, name: str, _is_bool: bool, cell: Any) -> Any:
        return self._checked(name, self._in_range(name, _number(name, cell)))

    def _checked(self, name: str, value: Any) -> Any:
        if said := check_param(self._card, self._task, name, value):
            raise ValueError(said)
        return value

    @staticmethod
    def _in_range(name: str, value: int | float) -> Any:
        if name == "seed":
            if not 0 <= value <= MAX_SEED:
                raise ValueError(f"{value} is not between 0 and {MAX_SEED} (leave it out for a derived seed)")
            return value
        try:
            return getattr(Params.model_validate({name: value}), name)
        except ValidationError as error:
            said = error.errors()[0]["msg"].replace("Input should", "should")
            raise ValueError(f"{value} {said}") from error


def _number(name: str, cell: Any) -> int | float:
    whole = name not in _FLOATS
    wanted = "a whole number" if whole else "a number"
    if isinstance(cell, bool):
        raise ValueError(f"{str(cell).lower()} is not {wanted}")
    value = cell = read_fps(cell) if name == "fps" else cell
    if isinstance(cell, str):
        text = cell.strip()
        if not _NUMBER.fullmatch(text):  # Python takes 1_000 and full-width digits as well
            raise ValueError(f"{text[:60]!r} is not {wanted}")
        try:
            value = int(text) if whole and text.lstrip("+-").isdecimal() else float(text)
        except (ValueError, OverflowError):
            raise ValueError(f"{text[:60]!r} is not {wanted}") from None
    if not isinstance(value, int) and not math.isfinite(value):
        raise ValueError(f"{value} is not {wanted}")
    if not whole:
        try:
            return float(value)
        except OverflowError:  # of a whole number of some hundred digits
            raise ValueError(f"{str(value)[:60]}… is not {wanted}") from None
    # pandas writes whole numbers as 30.0 where a column has gaps; beyond 2**53 the digits are no longer there.
    if isinstance(value, float) and (not value.is_integer() or abs(value) > _EXACT_FLOAT):
        raise ValueError(f"{value} is not {wanted}")
    return int(value)
