"""What a card implies when it is silent, and whether a parameter's rules agree with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from abstractvision_batch.registry.constraints import check_rule
from abstractvision_batch.registry.model_card import PARAM_TYPES, STANDARD_PARAMS, ParamRule

DEFAULT_INPUTS: dict[str, tuple[str, ...]] = {
    "text_to_image": ("text",),
    "image_to_image": ("text", "image"),
    "text_to_video": ("text",),
    "image_to_video": ("image", "text_optional"),
    "multi_view_image": ("text", "image_optional"),
}
DEFAULT_OUTPUTS: dict[str, tuple[str, ...]] = {
    "text_to_image": ("image",),
    "image_to_image": ("image",),
    "text_to_video": ("video",),
    "image_to_video": ("video",),
    "multi_view_image": ("image[]",),
}

_NEEDED = {
    "text_to_image": ("prompt",),
    "image_to_image": ("prompt", "image"),
    "text_to_video": ("prompt",),
    "image_to_video": ("image",),
    "multi_view_image": ("prompt",),
}


def implied_params(task: str) -> dict[str, ParamRule]:
    """What every model takes for a task, so that no card repeats it: the task's inputs, and a seed."""
    needed = {name: ParamRule(required=True, type="image" if name == "image" else "string") for name in _NEEDED[task]}
    return {**needed, "seed": ParamRule(type="int", min=0)}


def build_rule(name: str, data: Mapping[str, Any] | None) -> ParamRule:
    """Build a parameter's rules from what a card says, with its type where the card leaves that out."""
    rule = dict(data or {})
    if rule.get("enum") is not None:
        rule["enum"] = tuple(rule["enum"])
    if "type" not in rule:
        bounded = "min" in rule or "max" in rule
        rule["type"] = STANDARD_PARAMS.get(name) or ("int" if "multiple_of" in rule else "number" if bounded else None)
    return ParamRule(**rule)


def rule_problems(data: Mapping[str, Any], rule: ParamRule | None = None) -> Iterator[tuple[str, str]]:
    """What is wrong with one parameter's rules, as (key, message).

    Args:
        data: the rules as written.
        rule: the rules as built, for the checks that need `data` to be sound already: of values against each other.
    """
    if rule is not None:
        yield from _disagreements(data, rule)
        return
    for key in ("required", "supported"):
        if not isinstance(data.get(key, False), bool):
            yield key, "is neither true nor false"
    for key in ("min", "max"):
        if key in data and not _is_number(data[key]):
            yield key, "is not a number"
    for key in ("multiple_of", "remainder"):
        value = data.get(key, 1)
        if not _is_number(value) or isinstance(value, float) or value < (1 if key == "multiple_of" else 0):
            yield key, "is not a whole number" + (" above 0" if key == "multiple_of" else "")
    if "enum" in data and not (isinstance(data["enum"], list) and data["enum"] and all(map(_is_scalar, data["enum"]))):
        yield "enum", "is not a list of allowed values"
    if not _is_scalar(data.get("const", 0)):
        yield "const", "is not a single value"
    default = data.get("default")
    if not (default is None or _is_scalar(default) or (isinstance(default, list) and all(map(_is_scalar, default)))):
        yield "default", "is neither a single value nor a list of them"
    if not isinstance(data.get("description", ""), str):
        yield "description", "is not a text"
    if data.get("type", "int") not in PARAM_TYPES:
        yield "type", f"is not one of {', '.join(PARAM_TYPES)}"


def _disagreements(data: Mapping[str, Any], rule: ParamRule) -> Iterator[tuple[str, str]]:
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        yield "max", f"{rule.max} is below min {rule.min}"
    if rule.remainder and (rule.multiple_of is None or rule.remainder >= rule.multiple_of):
        yield "remainder", "needs a larger multiple_of"
    if rule.multiple_of is not None and rule.type != "int":
        yield "multiple_of", f"is for whole numbers, and this parameter is of type {rule.type}"
    if not rule.supported and len(data) > 1 + ("description" in data) + ("type" in data):
        yield "supported", "is false, so no other rule can hold (keep only this one)"
    named = {"default": rule.default, "const": rule.const}
    values = [(key, value) for key, value in named.items() if value is not None]
    for key, value in values + [("enum", value) for value in rule.enum or ()]:
        problem = check_rule(rule, value)
        if problem:
            yield key, problem


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool) or _is_number(value)
