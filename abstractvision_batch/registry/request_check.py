"""From keyword arguments to a request: everything wrong with them at once, before a backend sees them.

Checked are the names, what a value may be at all, the backend's limits and the model's card. Not covered: job specs
(`job.check`), and keys of `extra` that the card does not declare, which are the backend's to judge.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from abstractvision_batch.errors import CapabilityNotSupportedError
from abstractvision_batch.registry.constraints import INPUT_PARAMS, MAX_SEED, check_params
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.param_rule import ParamRule
from abstractvision_batch.text.redaction import redact
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import MORE_PICTURES, TASK_OF_REQUEST, Task, VisionBackendCapabilities, VisionRequest

_REQUEST_TYPES: dict[Task, type[VisionRequest]] = {task: request for request, task in TASK_OF_REQUEST.items()}

_COUNT = ParamRule(type="int", min=1)
#: What a value may be, whatever the model.
_RULES = {
    "prompt": ParamRule(type="string"),
    "negative_prompt": ParamRule(type="string"),
    "width": _COUNT,
    "height": _COUNT,
    "steps": _COUNT,
    "num_frames": _COUNT,
    "fps": ParamRule(type="number", min=1),
    "seed": ParamRule(type="int", min=0, max=MAX_SEED),
    "guidance_scale": ParamRule(type="number"),
    "strength": ParamRule(type="number", min=0, max=1),
}
_IMAGES = ("image", "mask", "reference_image", "last_image")
_LISTS = ("images", "control", "angles")

Problem = tuple[str, str]


class InvalidRequestError(CapabilityNotSupportedError):
    """Values that are wrong, or beyond the backend or the model.

    ``problems`` holds one ``task: parameter: what (what would do)`` line per fault.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(map(redact, problems)) or (str(self),)
        self.count = len(self.problems)


class UnknownParameterError(InvalidRequestError, TypeError):
    """A keyword argument that the request does not have; also the `TypeError` that the older library raised."""


def build_request(
    task: Task,
    values: Mapping[str, Any],
    *,
    card: ModelCard | None = None,
    capabilities: VisionBackendCapabilities | None = None,
) -> VisionRequest:
    """Build the request that keyword arguments describe; those of value None count as not given.

    A field of the request that stands in `extra` is taken for the argument of that name: the older library's edits had
    no other place for width, height and strength.

    Raises:
        UnknownParameterError: an argument is no field of the request.
        InvalidRequestError: a value is missing, wrong, or beyond the backend or the model.
    """
    request_type = _REQUEST_TYPES[task]
    known = [field.name for field in fields(request_type) if field.name != "extra"]
    unknown = [name for name in values if name not in known and name != "extra"]
    given, extra, faults = _read_values(values, known)
    problems = [(name, _unknown(name, known)) for name in unknown] + faults
    problems += [(name, "missing") for name in _required(request_type) if name not in given]
    wrong = {name: fault for name, value in given.items() if (fault := _check_value(name, value))}
    sound = {name: value for name, value in given.items() if name not in wrong}
    problems += [*wrong.items(), *_beyond_backend(sound, capabilities)]
    if card is not None:
        declared = {name: value for name, value in extra.items() if name in card.tasks[task].params}
        inputs = [name for name in INPUT_PARAMS if name in given]
        if "control" not in card.tasks[task].params:  # which ControlNets the backend has says no card
            sound.pop("control", None)
        problems += check_params(card, task, {**sound, **declared}, inputs=inputs)
    if problems:
        lines = tuple(f"{task}: {name}: {fault}" for name, fault in problems)
        error = UnknownParameterError if unknown else InvalidRequestError
        raise error("\n".join(lines), problems=lines)
    if card is not None:
        _fill_in(given, extra, card, task, known)
    return request_type(**given, extra=extra)


def _required(request_type: type[VisionRequest]) -> list[str]:
    """Return the fields without a default, and an edit's image, whose default only keeps the older field order."""
    return [f.name for f in fields(request_type) if f.name == "image" or f.default is f.default_factory is MISSING]


def _read_values(
    values: Mapping[str, Any], known: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """Return the request's fields that are given, what is in `extra` besides, and what is wrong with `extra`."""
    extra = values.get("extra")
    problems: list[Problem] = []
    if not isinstance(extra, Mapping | None):
        problems = [("extra", f"{type(extra).__name__} is not a mapping (write extra={{name: value}})")]
        extra = None
    rest, given = dict(extra or {}), dict[str, Any]()
    for name in known:
        # What else a server may call so is its own, as `extra.images`.
        own, other = values.get(name), None if name in MORE_PICTURES else rest.pop(name, None)
        if own is not None and other is not None and other != own:
            problems.append((name, f"given as {own!r} and in extra as {other!r}"))
        if (value := other if own is None else own) is not None:
            given[name] = (
                tuple(map(_plain, value)) if name in _LISTS and isinstance(value, list | tuple) else _plain(value)
            )
    return given, rest, problems


def _unknown(name: str, known: Sequence[str]) -> str:
    hint = hint_for(name, known, f"it has: {', '.join(known)}")
    return f"unknown parameter ({hint}; what only the backend knows goes into extra)"


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's, and any buffer as bytes."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _check_value(name: str, value: Any) -> str | None:
    if name in _RULES:
        return _RULES[name].problem(value)
    if name in _IMAGES:
        return _check_image(value)
    if name in ("images", "control"):
        if not isinstance(value, tuple):
            return f"{type(value).__name__} is not a list of encoded images (pass a list of the files' bytes)"
        return next(filter(None, map(_check_image, value)), None)
    if name == "angles" and not (isinstance(value, tuple) and value and all(isinstance(a, str) and a for a in value)):
        return 'not a list of views (write ["front", "side"])'
    return None


def _check_image(value: Any) -> str | None:
    if isinstance(value, bytes):
        return None if value else "no bytes (pass an encoded image)"
    return f"{type(value).__name__} is not an encoded image (pass the file's bytes)"


def _beyond_backend(given: Mapping[str, Any], capabilities: VisionBackendCapabilities | None) -> list[Problem]:
    if capabilities is None:
        return []
    limits = {
        "width": capabilities.max_width,
        "height": capabilities.max_height,
        "fps": capabilities.max_fps,
        "num_frames": capabilities.max_frames,
    }
    problems = [
        (name, f"{given[name]} is more than the backend can do (at most {limit})")
        for name, limit in limits.items()
        if limit is not None and name in given and given[name] > limit
    ]
    if "mask" in given and capabilities.supports_mask is False:
        problems.append(("mask", "the backend takes no mask (leave it out)"))
    for name in MORE_PICTURES:
        if given.get(name) and name not in capabilities.pictures:
            problems.append((name, f"the backend takes no {name} (leave it out)"))
    return problems


def _fill_in(given: dict[str, Any], extra: dict[str, Any], card: ModelCard, task: Task, known: Sequence[str]) -> None:
    """Set what the card leaves no choice about: a const, and the default of a required parameter."""
    for name, rule in card.tasks[task].params.items():
        value = rule.const if rule.const is not None else rule.default if rule.required else None
        if value is not None and rule.supported:
            (given if name in known else extra).setdefault(name, tuple(value) if name == "angles" else value)
