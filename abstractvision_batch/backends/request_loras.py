"""Which LoRA adapters a request has, by its `extra`: a set's name or adapters of its own, and scales that differ.

Not covered: what an adapter is to a backend, and loading it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.job.param_names import LORAS, scaled_adapter
from abstractvision_batch.text.suggestions import hint_for

LORA_KEYS = (LORAS, "loras_json")
_Adapter = TypeVar("_Adapter", bound=Any)


def takes_loras(key: str) -> bool:
    """Tell whether a key of `extra` says which adapters act."""
    return key in LORA_KEYS or scaled_adapter(key) is not None


def take_loras(
    extra: dict[str, Any],
    own: Sequence[_Adapter],
    sets: Mapping[str, Sequence[_Adapter]],
    read: Callable[[Mapping[str, Any]], _Adapter],
    form: str,
) -> tuple[_Adapter, ...]:
    """Take what a request says of its adapters out of its `extra`, and return those that act.

    Args:
        extra: Of the request; it loses these keys.
        own: The adapters of a request that says nothing, or scales alone.
        sets: Adapters by name.
        read: Makes an adapter of a mapping.
        form: What that mapping has, for messages.

    Raises:
        GenerationError: a value is none of adapters, or there is no adapter of a scale's number.
    """
    said = {key: extra.pop(key) for key in list(extra) if takes_loras(key)}
    key = next((key for key in LORA_KEYS if key in said), None)
    chosen = tuple(own) if key is None else _read(f"extra.{key}", said[key], sets, read, form)
    for name, scale in said.items():
        number = scaled_adapter(name)
        if number is None:
            continue
        if number >= len(chosen):
            raise GenerationError(f"{name}: {scale} is of no adapter (the request has {len(chosen)})")
        if not isinstance(scale, int | float) or isinstance(scale, bool):
            raise GenerationError(f"{name}: {scale!r} is not a number")
        chosen = (*chosen[:number], replace(chosen[number], scale=float(scale)), *chosen[number + 1 :])
    return chosen


def _read(
    name: str,
    value: Any,
    sets: Mapping[str, Sequence[_Adapter]],
    read: Callable[[Mapping[str, Any]], _Adapter],
    form: str,
) -> tuple[_Adapter, ...]:
    if isinstance(value, str) and value in sets:
        return tuple(sets[value])
    if sets and isinstance(value, str) and not value.lstrip().startswith(("[", "{", "null")):
        raise GenerationError(f"{name}: no set {value!r} ({hint_for(value, sets, 'there are: ' + ', '.join(sets))})")
    try:
        entries = json.loads(value) if isinstance(value, str) else value
        return tuple(read(entry) for entry in ([entries] if isinstance(entries, Mapping) else entries or ()))
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise GenerationError(f"{name}: not a list of {form} ({exc})") from exc
