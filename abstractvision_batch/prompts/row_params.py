"""Parameters that a row sets for itself: text becomes a typed value, checked against its range and the model's card.

A parameter that only the backend has takes any value of JSON. In a table, which has nothing but text, a cell is a
number or truth value where it is written as one, and a list or mapping where it is written as JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from abstractvision_batch.backends.table import find_extra_checker, find_own_problems
from abstractvision_batch.documents.positions import format_path
from abstractvision_batch.job.fields import MAX_SEED
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import Params
from abstractvision_batch.job.other_params import find_value_problem
from abstractvision_batch.job.param_names import extra_key, is_other
from abstractvision_batch.media.frame_rates import read_fps
from abstractvision_batch.prompts.cells import value_of
from abstractvision_batch.registry.constraints import check_param

_FLOATS = frozenset({"guidance_scale", "strength", "fps"})
_EXACT_FLOAT = 2**53


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


class OverrideParser:
    """Turns the cells of one job's override columns into values. Repeated cells, the usual case, are looked up."""

    def __init__(self, job: Job) -> None:
        # An empty negative prompt says that there is none, and is not taken for absent.
        self._empty_is_none = job.version > 1
        self._spec = job.spec
        self._card = job.card
        self._task = job.spec.task
        self._parse = lru_cache(maxsize=8192)(self._parse_now)
        self._check_other = lru_cache(maxsize=8192)(self._check_other_now)
        self._find_problem = _problem_finder(job) if job.spec.prompts.fields.others else None

    def parse(self, name: str, cell: Any, *, is_written: bool = False) -> Any:
        """The value of parameter `name`, as JSON where only the backend has it; None where the cell is empty.

        Args:
            name: Of the parameter.
            cell: What the row has.
            is_written: Whether that is text which may stand for another value.

        Raises:
            ValueError: with the message of what is wrong.
        """
        if is_other(name):
            return self._parse_other(name, cell, is_written=is_written)
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

    def _parse_other(self, name: str, cell: Any, *, is_written: bool) -> str | None:
        rule = self._card.tasks[self._task].params.get(extra_key(name))
        if isinstance(cell, str) and (rule is None or rule.type != "string"):
            cell = value_of(cell) if is_written else cell
            cell = _read_json(cell) if isinstance(cell, str) else cell
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return None
        try:
            text = json.dumps(cell, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(f"{str(cell)[:60]!r} is no value of a parameter (a number, text, list, …)") from None
        if said := self._check_other(name, text):
            raise ValueError(said)
        return text

    def _check_other_now(self, name: str, text: str) -> str | None:
        value = json.loads(text)
        said = find_value_problem(self._spec, self._card, name, value)
        if said is None and self._find_problem is not None:
            said = self._find_problem(extra_key(name), value)
        return said

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


def _problem_finder(job: Job) -> Callable[[str, Any], str | None] | None:
    """Return what finds a problem of the backend's with a value; names that it does not know are not of rows."""
    find = find_extra_checker(job.backend, job.card, job.spec.model, job.spec.task)
    if find is None:
        return None

    def find_problem(key: str, value: Any) -> str | None:
        if any(find_own_problems(find, key, None)):
            return None
        found = next(find_own_problems(find, key, value), None)
        return None if found is None else ": ".join(filter(None, (format_path(found[0]), found[1])))

    return find_problem


def _read_json(text: str) -> Any:
    """Return the list or mapping that a text is written as, else the text."""
    if not text.strip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is neither a list nor a mapping of JSON ({error})") from error


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
