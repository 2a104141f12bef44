"""Values of parameters that only a model's pipeline, server or program has: what is wrong with one, and its column.

A value is a JSON type. Its column in plan and manifest has the type that the card says, else that of all its values:
int64, float64, bool or string; lists and mappings, and values of several types, are JSON text.

Not covered: what only the backend's own code knows, such as which names a pipeline takes
(`VisionBackend.find_problems`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.param_names import LORAS, SCHEDULER, extra_key, is_other, scaled_adapter
from abstractvision_batch.registry.constraints import check_param
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import Task

_LARGEST_SCALE = 10
_TYPE_OF_RULE = {"int": "int64", "number": "float64", "bool": "bool", "string": "string"}
_TYPE_OF_VALUES = {
    frozenset({int}): "int64",
    frozenset({float}): "float64",
    frozenset({int, float}): "float64",
    frozenset({bool}): "bool",
}


def find_name_problem(spec: JobSpec, name: str) -> str | None:
    """Say why no request of a job can have a parameter of its own, whatever its value; None where one can."""
    backend, key = spec.backend, extra_key(name)
    if name == SCHEDULER and not backend.takes_scheduler:
        return f"backend {backend.kind} takes no scheduler for single requests (leave it out)"
    if name != key and key == SCHEDULER and backend.takes_scheduler:
        return "is no extra parameter here (write scheduler)"
    number, sets = scaled_adapter(name), backend.adapter_sets
    if name != LORAS and number is None:
        return None
    if sets is None:
        return f"backend {backend.kind} takes no LoRA adapters for single requests (leave it out)"
    if number is not None and number >= (longest := max(map(len, sets.values()))):
        return f"there is no adapter {number} (backend.loras and backend.lora_sets have up to {longest})"
    return None


def find_value_problem(spec: JobSpec, card: ModelCard, name: str, value: Any) -> str | None:
    """Say what is wrong with a value of a parameter that requests of a job can have, as far as spec and card tell."""
    if not is_other(name):
        return check_param(card, spec.task, name, value)
    if name == LORAS:
        sets = [one for one in spec.backend.adapter_sets or () if one]
        if isinstance(value, str) and value in sets:
            return None
        known = f"it has: {', '.join(sets)}" if sets else "write them there: {soft: [{source: soft.safetensors}]}"
        return f"{show(value)} is no set of backend.lora_sets ({hint_for(str(value), sets, known)})"
    if scaled_adapter(name) is not None:
        fits = _is_number(value) and abs(value) <= _LARGEST_SCALE
        return None if fits else f"{show(value)} is no number from -{_LARGEST_SCALE} to {_LARGEST_SCALE}"
    if name == SCHEDULER and not (isinstance(value, str) and value) and not isinstance(value, dict):
        return f"{show(value)} is no scheduler (write its name, or {{name: …}} with its settings)"
    if value is None or not _is_finite(value):
        return f"{show(value)} is no value (give one; a parameter that is left out has its default)"
    key = extra_key(name)
    return check_param(card, spec.task, key, value) if key in card.tasks[spec.task].params else None


def split_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request's `extra` has of the values of a point or row."""
    return {extra_key(name): value for name, value in values.items() if is_other(name)}


def expand_loras(spec: JobSpec, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return `extra` with the adapters of a set in place of its name: what a request is, whatever sets are called."""
    sets, chosen = spec.backend.adapter_sets or {}, extra.get(LORAS)
    if not isinstance(chosen, str) or chosen not in sets:
        return dict(extra)
    return {**extra, LORAS: [adapter.model_dump(mode="json") for adapter in sets[chosen]]}


def column_type(card: ModelCard, spec: JobSpec, name: str, values: Iterable[Any]) -> str:
    """Return the Arrow type of a parameter's column, by the card, else by all of its values."""
    of_values = frozenset({type(value) for value in values})
    return rule_type(card, spec.task, name) or _TYPE_OF_VALUES.get(of_values, "string")


def rule_type(card: ModelCard, task: Task, name: str) -> str | None:
    """Return the Arrow type of a parameter's column by the rule that the card has for it; None where it has none."""
    rule = card.tasks[task].params.get(extra_key(name))
    return None if rule is None or rule.type is None else _TYPE_OF_RULE.get(rule.type)


def to_column(value: Any, type_: str) -> Any:
    """Return a value as its column of a type has it."""
    if value is None or (isinstance(value, str) and type_ == "string"):
        return value
    if type_ == "string":
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return float(value) if type_ == "float64" else value


def varied_values(spec: JobSpec) -> Iterator[tuple[FieldPath, str, Any]]:
    """Yield each value that the spec lists for one of the other parameters, with its place and the parameter."""
    for where in ("matrix", "zip"):
        for name, values in getattr(spec, where).items():
            yield from (((where, name, index), name, value) for index, value in enumerate(values) if is_other(name))
    for name, drawn in spec.draw.parameters.items() if spec.draw else ():
        path: FieldPath = ("draw", name, drawn.kind)
        yield from (((*path, index), name, value) for index, value in enumerate(drawn.values) if is_other(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_finite(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)
