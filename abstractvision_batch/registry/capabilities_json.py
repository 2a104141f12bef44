"""The older library's capability asset: one JSON object of all models, its validator, and its models as cards.

`registry.paths`, `--registry` and `VisionModelCapabilitiesRegistry(asset_path=...)` take such a file like card files.
Not covered: reading it (`card_file`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.types import TASKS

#: Names of rules that the older library spelled in two ways.
_RULE_NAMES = {"minimum": "min", "maximum": "max"}
_RULES = ("required", "default", "min", "max", "multiple_of", "enum", "const", "supported", "description")
_ENGINES = {"diffusers": "diffusers", "stable-diffusion.cpp": "sdcpp"}


def validate_capabilities_json(data: Any) -> None:
    """Check a capability asset as the older library did, with its words.

    Raises:
        ValueError: the asset is malformed; the message names the place.
    """
    _check(isinstance(data, Mapping), "", "must be an object")
    _check(
        isinstance(data.get("schema_version"), str | int | float), "['schema_version']", "must be a string or number"
    )
    tasks, models = data.get("tasks"), data.get("models")
    _check(isinstance(tasks, Mapping), "['tasks']", "must be an object")
    _check(isinstance(models, Mapping), "['models']", "must be an object")
    for name, task in tasks.items():
        _check(isinstance(task, Mapping), f"['tasks'][{name!r}]", "must be an object")
        _check(isinstance(task.get("description", ""), str), f"['tasks'][{name!r}]['description']", "must be a string")
    for model_id, model in models.items():
        at = f"['models'][{model_id!r}]"
        _check(_is_text(model_id) and isinstance(model, Mapping), at, "must be an object with a non-empty id")
        for key in ("provider", "license"):
            _check(_is_text(model.get(key)), f"{at}[{key!r}]", "must be a non-empty string")
        _check(isinstance(model.get("tasks"), Mapping), f"{at}['tasks']", "must be an object")
        for name, task in model["tasks"].items():
            _check_task(name, task, f"{at}['tasks'][{name!r}]", tasks, models)


def is_capabilities_json(data: Any) -> bool:
    """Return whether a document is a capability asset and not a file of model cards."""
    return isinstance(data, Mapping) and "schema_version" in data and "models" in data


def cards_of_capabilities(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a valid asset's models as cards, for `card_schema` to check.

    A task that this package does not have is left out. Where the asset names no engine that runs a model, Diffusers
    and a server are taken to: the older library asked no further either.
    """
    return [_card_of(model_id, model) for model_id, model in data["models"].items()]


def _card_of(model_id: str, model: Mapping[str, Any]) -> dict[str, Any]:
    engines = [entry.get("engine") for entry in model.get("downloads") or () if isinstance(entry, Mapping)]
    kinds = list(dict.fromkeys(_ENGINES[engine] for engine in engines if engine in _ENGINES)) or ["diffusers"]
    return {
        "id": model_id,
        "provider": model["provider"],
        "license": model["license"],
        "notes": str(model.get("notes") or ""),
        "tasks": {name: _task_of(task) for name, task in model["tasks"].items() if name in TASKS},
        "backends": {kind: {} for kind in ([] if model["provider"] == "openai" else kinds) + ["openai"]},
    }


def _task_of(task: Mapping[str, Any]) -> dict[str, Any]:
    requires = task.get("requires") or {}
    return {
        "inputs": list(task.get("inputs") or ()),
        "outputs": list(task.get("outputs") or ()),
        "params": {name: _rule_of(rule) for name, rule in task["params"].items()},
        "requires": {name: requires[name] for name in ("backend", "base_model_id") if name in requires},
    }


def _rule_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    if rule.get("supported") is False:
        return {"supported": False}  # next to it no other rule can hold
    renamed = {_RULE_NAMES.get(name, name): value for name, value in rule.items()}
    return {name: value for name, value in renamed.items() if name in _RULES and value is not None}


def _check_task(name: str, task: Any, at: str, tasks: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    _check(name in tasks, at, f"unknown task {name!r}")
    _check(isinstance(task, Mapping), at, "must be an object")
    for key in ("inputs", "outputs"):
        words = task.get(key, [])
        _check(isinstance(words, list) and all(map(_is_text, words)), f"{at}[{key!r}]", "must be a list of strings")
    _check(isinstance(task.get("params"), Mapping), f"{at}['params']", "must be an object")
    for param, rule in task["params"].items():
        required = rule.get("required") if isinstance(rule, Mapping) else None
        _check(isinstance(required, bool), f"{at}['params'][{param!r}]", "must be an object with a boolean 'required'")
    requires = task.get("requires") or {}
    _check(isinstance(requires, Mapping), f"{at}['requires']", "must be an object")
    base = requires.get("base_model_id")
    _check(base is None or base in models, f"{at}['requires']", f"unknown base_model_id {base!r}")


def _check(holds: bool, place: str, message: str) -> None:
    if not holds:
        raise ValueError(f"Invalid capability asset at {place or 'root'}: {message}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
