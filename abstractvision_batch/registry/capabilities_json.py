"""The older library's capability asset: one JSON object of all models, and its validator.

For those who keep such a file beside their cards. Not covered: reading one; a card says more (`card_file`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
