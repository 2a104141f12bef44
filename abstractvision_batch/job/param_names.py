"""Names of the parameters that a spec may vary: ours, and those that only a model's pipeline, server or program has.

    steps, seed, …      ours, the same for every model (`job.model.Params`)
    extra.NAME          any other that the backend takes: `extra.clip_skip`
    loras               a set of adapters, by its name in `backend.lora_sets`
    loras[0].scale      the scale of one adapter, of the set or of `backend.loras`
    scheduler           the name of a scheduler, or a mapping of its name and settings

A request has the latter ones in its `extra`, under what `extra_key` says. Not covered: whether a model takes one, and
its values (`other_params`).
"""

from __future__ import annotations

import re

from abstractvision_batch.text.suggestions import foreign_name_of, hint_for_field

STANDARD = ("negative_prompt", "width", "height", "steps", "guidance_scale", "strength", "num_frames", "fps", "seed")
LORAS, SCHEDULER = "loras", "scheduler"
#: What of the others has a name of its own.
OTHERS = ("extra.NAME", LORAS, "loras[0].scale", SCHEDULER)
#: Of the others, as a whole.
OTHER_PATTERN = r"extra\.[A-Za-z_][A-Za-z0-9_-]*|loras\[[0-9]{1,3}\]\.scale|loras|scheduler"
_OTHER = re.compile(OTHER_PATTERN)
_SCALE = re.compile(r"loras\[([0-9]{1,3})\]\.scale")
_EXTRA = "extra."
#: Adapters that a job names in `params.extra`, for all its requests.
_ADAPTERS = ("loras", "loras_json")


def is_other(name: str) -> bool:
    """Tell whether a parameter is none of ours."""
    return _OTHER.fullmatch(name) is not None


def extra_key(name: str) -> str:
    """Return what a request's `extra` calls one of the other parameters."""
    return name.removeprefix(_EXTRA)


def param_name(key: str) -> str:
    """Return the name of the parameter that a key of a request's `extra` is."""
    return key if is_other(key) else f"{_EXTRA}{key}"


def scaled_adapter(name: str) -> int | None:
    """Return the number of the adapter whose scale a parameter is, from 0; None where it is another parameter."""
    match = _SCALE.fullmatch(name)
    return None if match is None else int(match[1])


def require_param(name: str) -> str:
    """Return the name of a parameter that may vary.

    Raises:
        ValueError: it is none; the message says what was meant.
    """
    if name in STANDARD:
        return name
    if not is_other(name):
        raise ValueError(f"unknown parameter ({hint_for_field(name, (*STANDARD, *OTHERS), ())})")
    return require_other(name)


def require_other(name: str) -> str:
    """Return the name of a parameter that is none of ours.

    Raises:
        ValueError: it is one of ours, or none; the message says what was meant, and nothing where that is not known.
    """
    if not is_other(name):
        raise ValueError
    key = extra_key(name)
    own = key if key in STANDARD else foreign_name_of(key, STANDARD)
    if own is not None:
        raise ValueError(f"is no extra parameter (write {own})")
    if name != key and key in _ADAPTERS:
        raise ValueError("is no extra parameter here (write loras: a name of backend.lora_sets)")
    return name
