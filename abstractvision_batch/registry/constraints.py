"""Checking parameter values against a model card, and saying what would be allowed.

A parameter that the card's task does not declare is an error, whatever its name; only `seed` is always taken. Messages
are tails without a place: the caller knows file and line.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

from abstractvision_batch.registry.model_card import ModelCard, ParamRule, TaskCard

#: Parameters that come with the prompt dataset's rows; whether they are there is for the caller to say.
INPUT_PARAMS = ("prompt", "image", "mask", "reference_image")
MAX_SEED = 2**63 - 1

_SEED = ParamRule(type="int", min=0, max=MAX_SEED)


def check_param(card: ModelCard, task: str, name: str, value: object) -> str | None:
    """What is wrong with one value, or None. A value of None means that the parameter is not given."""
    if value is None:
        return None
    task_card = card.tasks.get(task)
    if task_card is None:
        return _no_task(card, task)
    rule = task_card.params.get(name) or (_SEED if name == "seed" else None)
    if rule is None:
        return _undeclared(card, task_card, name)
    if not rule.supported:
        return f"this model ignores {name} (leave it out; {card.origin})"
    problem = _check_type(rule.type, value) or _check_value(rule, value)
    return problem and f"{problem}; {card.origin})"


def check_rule(rule: ParamRule, value: object) -> str | None:
    """What is wrong with a value that a card itself names, such as a default."""
    problem = _check_type(rule.type, value) or _check_value(rule, value)
    return problem and f"{problem})"


def check_params(
    card: ModelCard, task: str, values: Mapping[str, object], *, inputs: Collection[str] | None = None
) -> list[tuple[str, str]]:
    """What is wrong with a set of values, as (parameter, message).

    Args:
        card: the model's card.
        task: one of its tasks.
        values: parameters by name; those of value None count as not given.
        inputs: which of `INPUT_PARAMS` every request will have; None leaves inputs unjudged.
    """
    task_card = card.tasks.get(task)
    if task_card is None:
        return [("task", _no_task(card, task))]
    problems = [(name, problem) for name, value in values.items() if (problem := check_param(card, task, name, value))]
    for name in inputs or ():
        rule = task_card.params.get(name)
        if values.get(name) is None and (rule is None or not rule.supported):
            problems.append((name, f"this model takes no {name} for {task} (leave it out; {card.origin})"))
    for name, rule in task_card.params.items():
        given = values.get(name) is not None or name in (INPUT_PARAMS if inputs is None else inputs)
        if rule.required and not given and rule.default is None and rule.const is None:
            problems.append((name, f"this model needs {name} for {task} ({card.origin})"))
    return problems


def default_params(card: ModelCard, task: str) -> dict[str, Any]:
    """What a parameter is when nothing is said: the card's const, else its default; others are absent."""
    rules = card.tasks[task].params.items()
    values = {name: rule.default if rule.const is None else rule.const for name, rule in rules if rule.supported}
    return {name: value for name, value in values.items() if value is not None}


def describe_allowed(rule: ParamRule) -> str:
    """The values that a rule allows, in words; empty when any value of its type is."""
    if rule.const is not None:
        return f"only {_show(rule.const)}"
    if rule.enum is not None:
        return "one of " + ", ".join(_show(value) for value in rule.enum)
    low, high = (None if bound is None else _show(bound) for bound in (rule.min, rule.max))
    span = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""
    if rule.multiple_of is None:
        return span
    step = f"multiples of {rule.multiple_of}" + (f" plus {rule.remainder}" if rule.remainder else "")
    return f"{step}, {span}" if span else step


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that a misspelt one probably means."""
    folded = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def _no_task(card: ModelCard, task: str) -> str:
    return f"{card.id} has no task {task} (it has: {', '.join(card.tasks) or 'none'}; {card.origin})"


def _undeclared(card: ModelCard, task_card: TaskCard, name: str) -> str:
    known = [param for param, rule in task_card.params.items() if rule.supported]
    guess = closest(name, known)
    hint = f"did you mean {guess}?" if guess else f"it has: {', '.join(known)}"
    return f"this model's card has no parameter {name} for {task_card.task} ({hint}; {card.origin})"


def _check_type(kind: str | None, value: object) -> str | None:
    """The open parenthesis of the message is closed by the caller, after the card's file."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "int" and not whole:
        return f"{_show(value)} is not a whole number (write one without quotes or a decimal point"
    if kind == "number" and not (whole or (isinstance(value, float) and math.isfinite(value))):
        return f"{_show(value)} is not a number (write one without quotes"
    if kind == "bool" and not isinstance(value, bool):
        return f"{_show(value)} is not true or false (write true or false without quotes"
    if kind == "string" and not isinstance(value, str):
        return f"{_show(value)} is not a text (put it in quotes"
    if kind == "list" and not isinstance(value, list | tuple):
        return f"{_show(value)} is not a list (write [a, b]"
    return None


def _check_value(rule: ParamRule, value: Any) -> str | None:
    if rule.const is not None:
        return None if _equal(value, rule.const) else f"{_show(value)} is not allowed (only {_show(rule.const)}"
    if rule.enum is not None and not any(_equal(value, allowed) for allowed in rule.enum):
        guess = closest(value, [str(v) for v in rule.enum]) if isinstance(value, str) else None
        hint = f"did you mean {guess}? " if guess else ""
        return f"{_show(value)} is not allowed ({hint}allowed: {describe_allowed(rule)}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if rule.min is not None and value < rule.min:
        return f"{_show(value)} is below the minimum {_show(rule.min)} ({_ways_out(rule, value)}"
    if rule.max is not None and value > rule.max:
        return f"{_show(value)} is above the maximum {_show(rule.max)} ({_ways_out(rule, value)}"
    if rule.multiple_of is not None and (value - rule.remainder) % rule.multiple_of:
        plus = f" plus {rule.remainder}" if rule.remainder else ""
        return f"{_show(value)} is not a multiple of {rule.multiple_of}{plus} ({_ways_out(rule, value)}"
    return None


def _ways_out(rule: ParamRule, value: float) -> str:
    near = nearest_valid(rule, value)
    allowed = describe_allowed(rule)
    nearest = f"nearest: {', '.join(_show(v) for v in near)}" if near else ""
    if rule.multiple_of is not None and rule.min is None and rule.max is None:
        return nearest  # the message already names the multiple
    return f"allowed: {allowed}; {nearest}" if nearest else f"allowed: {allowed}"


def nearest_valid(rule: ParamRule, value: float) -> list[float]:
    """Up to two allowed values on either side of a value that breaks `min`, `max` or `multiple_of`."""
    low = -math.inf if rule.min is None else rule.min
    high = math.inf if rule.max is None else rule.max
    if rule.multiple_of is None:
        return [min(max(value, low), high)]
    step, first = rule.multiple_of, rule.remainder
    inside = min(max(value, low, 1), high)
    below = (math.floor(inside) - first) // step * step + first
    fits = [v for v in (below, below + step) if max(low, 1) <= v <= high]
    return [min(fits, key=lambda v: abs(v - value))] if fits and inside != value else list(fits)


def _equal(value: object, allowed: object) -> bool:
    """`True == 1` in Python; in a spec they are different things, while 1 and 1.0 are not."""
    return isinstance(value, bool) == isinstance(allowed, bool) and value == allowed


def _show(value: object) -> str:
    """A value as YAML would have it, cut to what fits a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:  # str() of a huge integer raises
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
