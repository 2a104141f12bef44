"""Spell values as JSON types: a dataclass by its fields, times in ISO 8601, paths and enumerations by their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any


def to_json(value: Any) -> Any:
    """Return the value with nothing in it but JSON types; what is not known here stays as it is.

    A class whose JSON is not its fields has a method `to_json`; one whose JSON has some of its properties, too, names
    these in `also_json`. A field whose metadata say `json: False` is left out.
    """
    if isinstance(value, type):
        return value
    if (own := getattr(value, "to_json", None)) is not None:
        return own()
    if is_dataclass(value):
        own_fields = [field.name for field in fields(value) if field.metadata.get("json", True)]
        names = [*own_fields, *getattr(value, "also_json", ())]
        return {name: to_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value
