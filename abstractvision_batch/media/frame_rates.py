"""Frames per second: whole numbers, fractions, and the rates of broadcast television, which are written rounded."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_FRACTION = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")
#: 23.976 and 23.98 both mean 24000/1001.
_ROUNDING = 0.005


def read_fps(value: Any) -> Any:
    """Return the number that a text such as `24000/1001` stands for; any other value as it is."""
    if isinstance(value, str) and (match := _FRACTION.fullmatch(value.strip())) and int(match[2]):
        return int(match[1]) / int(match[2])
    return value


def tidy_fps(value: float) -> float:
    """Return the whole number where a rate is one, so that 24 and 24.0 are one request."""
    return int(value) if float(value).is_integer() else value


def exact_fps(value: float) -> Fraction:
    """Return the rate as containers count it: 23.976 is 24000/1001, 12.5 is 25/2."""
    if float(value).is_integer():
        return Fraction(int(value))
    broadcast = Fraction(1000 * round(value * 1.001), 1001)
    return broadcast if abs(float(broadcast) - value) < _ROUNDING else Fraction(value).limit_denominator(1000)
