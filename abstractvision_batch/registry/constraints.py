"""Checking parameter values against a model card, and saying what would be allowed.

A parameter that the card's task does not declare is an error, whatever its name; only `seed` is always taken. Messages
are tails without a place: the caller knows file and line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.param_rule import ParamRule
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import Task

#: Parameters that come with the prompt dataset's rows; whether they are there is for the caller to say.
INPUT_PARAMS = ("prompt", "image", "mask", "reference_image", "images", "last_image")
MAX_SEED = 2**63 - 1

_SEED = ParamRule(type="int", min=0, max=MAX_SEED)


def check_param(card: ModelCard, task: Task, name: str, value: object) -> str | None:
    """What is wrong with one value, or None. A value of None means that the parameter is not given."""
    if value is None:
        return None
    task_card = card.tasks.get(task)
    if task_card is None:
        return _no_task(card, task)
    rule = task_card.params.get(name) or (_SEED if name == "seed" else None)
    if rule is None:
        return _undeclared(card, task, name)
    if not rule.supported:
        return f"this model ignores {name} (leave it out; {card.origin})"
    problem = rule.open_problem(value)
    return problem and f"{problem}; {card.origin})"


def check_params(
    card: ModelCard, task: Task, values: Mapping[str, object], *, inputs: Collection[str] | None = None
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


def default_params(card: ModelCard, task: Task) -> dict[str, Any]:
    """What a parameter is when nothing is said: the card's const, else its default; others are absent."""
    rules = card.tasks[task].params.items()
    values = {name: rule.default if rule.const is None else rule.const for name, rule in rules if rule.supported}
    return {name: value for name, value in values.items() if value is not None}


def _no_task(card: ModelCard, task: Task) -> str:
    return f"{card.id} has no task {task} (it has: {', '.join(card.tasks) or 'none'}; {card.origin})"


def _undeclared(card: ModelCard, task: Task, name: str) -> str:
    known = [param for param, rule in card.tasks[task].params.items() if rule.supported]
    hint = hint_for(name, known, f"it has: {', '.join(known)}")
    return f"this model's card has no parameter {name} for {task} ({hint}; {card.origin})"
