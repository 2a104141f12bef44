"""The parameters of stable-diffusion.cpp in its three spellings: command line, Python package, JSON of the server.

Those that a job's `backend` section has are there (`fields`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from abstractvision_batch.backends.stable_diffusion_cpp.fields import OPTIONS, SAMPLE, TILING, Option
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.text.suggestions import hint_for

_GUIDANCE = (SAMPLE, "guidance")
_SLG = (*_GUIDANCE, "slg")
_HIGH_NOISE = "high_noise_sample_params"

#: Chosen once, when the model loads.
CONTEXT: dict[str, Option] = {
    **{name: option for name, option in OPTIONS.items() if not option.place},
    "lora_apply_mode": Option(str, ("--lora-apply-mode",), "lora_apply_mode"),
    "sampler_rng": Option(str, ("--sampler-rng",), "sampler_rng_type"),
    "qwen_image_zero_cond_t": Option(bool, ("--qwen-image-zero-cond-t",), "qwen_image_zero_cond_t"),
}

#: A request's own fields, and what the backend decides for it.
REQUEST: dict[str, Option] = {
    "prompt": Option(str, ("--prompt", "-p"), "prompt", ("prompt",)),
    "negative_prompt": Option(str, ("--negative-prompt", "-n"), "negative_prompt", ("negative_prompt",)),
    "width": Option(int, ("--width", "-W"), "width", ("width",)),
    "height": Option(int, ("--height", "-H"), "height", ("height",)),
    "steps": Option(int, ("--steps",), "sample_steps", (SAMPLE, "sample_steps")),
    "cfg_scale": Option(float, ("--cfg-scale",), "cfg_scale", (*_GUIDANCE, "txt_cfg")),
    "seed": Option(int, ("--seed", "-s"), "seed", ("seed",)),
    "strength": Option(float, ("--strength",), "strength", ("strength",)),
    "num_frames": Option(int, ("--video-frames",), "video_frames", ("video_frames",)),
}

#: What `extra` may say.
EXTRA: dict[str, Option] = {
    **{name: option for name, option in OPTIONS.items() if option.place},
    "sigmas": Option(list, ("--sigmas",), "sigmas", (SAMPLE, "custom_sigmas")),
    "guidance": Option(float, ("--guidance",), "guidance", (*_GUIDANCE, "distilled_guidance")),
    "img_cfg_scale": Option(float, ("--img-cfg-scale",), "image_cfg_scale", (*_GUIDANCE, "img_cfg")),
    "timestep_shift": Option(int, ("--timestep-shift",), "timestep_shift", (SAMPLE, "shifted_timestep")),
    "clip_skip": Option(int, ("--clip-skip",), "clip_skip", ("clip_skip",)),
    "slg_scale": Option(float, ("--slg-scale",), "slg_scale", (*_SLG, "scale")),
    "skip_layer_start": Option(float, ("--skip-layer-start",), "skip_layer_start", (*_SLG, "layer_start")),
    "skip_layer_end": Option(float, ("--skip-layer-end",), "skip_layer_end", (*_SLG, "layer_end")),
    "vae_tile_overlap": Option(float, ("--vae-tile-overlap",), "vae_tile_overlap", (TILING, "target_overlap")),
}

#: What `extra` of a video request may say besides.
VIDEO_EXTRA: dict[str, Option] = {
    **{name: option for name, option in OPTIONS.items() if option.place},
    "high_noise_steps": Option(int, ("--high-noise-steps",), "high_noise_sample_steps", (_HIGH_NOISE, "sample_steps")),
    "high_noise_cfg_scale": Option(
        float, ("--high-noise-cfg-scale",), "high_noise_cfg_scale", (_HIGH_NOISE, "guidance", "txt_cfg")
    ),
    "moe_boundary": Option(float, ("--moe-boundary",), "moe_boundary", ("moe_boundary",)),
}

_GENERATION = REQUEST | EXTRA | VIDEO_EXTRA


def read_extra(extra: Mapping[str, Any], *, video: bool) -> dict[str, Any]:
    """Check what a request's `extra` says beside LoRAs.

    Raises:
        GenerationError: an unknown key, or a value of another type.
    """
    known = EXTRA | VIDEO_EXTRA if video else EXTRA
    read: dict[str, Any] = {}
    for key, value in extra.items():
        if key not in known:
            hint = hint_for(key, known, f"known: {', '.join(sorted((*known, 'loras')))}")
            raise GenerationError(f"extra.{key}: unknown ({hint})")
        if value is not None:
            read[key] = _checked(f"extra.{key}", value, known[key].kind)
    return read


def command_line(
    values: Mapping[str, Any], options: Mapping[str, Option], flags: Collection[str], name: str
) -> list[str]:
    """Spell values as arguments of a program that takes `flags`.

    Raises:
        DependencyError: the program has no flag for a value.
    """
    arguments: list[str] = []
    for key, value in values.items():
        if value is None or value is False:
            continue
        flag = choose_flag(options[key].flags, flags, f"{name} for {key}")
        if value is True:
            arguments.append(flag)
        else:
            text = ",".join(map(repr, value)) if isinstance(value, list) else str(value)
            arguments += [flag, text]
    return arguments


def generation_arguments(values: Mapping[str, Any], flags: Collection[str], name: str) -> list[str]:
    """Spell a generation's values as arguments of a program."""
    return command_line(values, _GENERATION, flags, name)


def choose_flag(candidates: Iterable[str], flags: Collection[str], wanted: str) -> str:
    """Return the first candidate that the program takes.

    Raises:
        DependencyError: it takes none of them.
    """
    candidates = tuple(candidates)
    for flag in candidates:
        if flag in flags:
            return flag
    raise DependencyError(f"{wanted}: this build has no {' or '.join(candidates)} (install another version)")


def keyword_arguments(values: Mapping[str, Any], options: Mapping[str, Option] = _GENERATION) -> dict[str, Any]:
    """Spell values as keyword arguments of the Python package."""
    named = {options[key].argument: value for key, value in values.items() if value is not None}
    if "sigmas" in named:
        named["sigmas"] = ",".join(map(repr, named["sigmas"]))
    return named


def json_body(values: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a generation's values as the server's JSON."""
    body: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        *parents, last = _GENERATION[key].place
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return body


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is list:
        if isinstance(value, str):
            try:
                value = json.loads(f"[{value}]")
            except ValueError:
                value = [None]
        if not (isinstance(value, list | tuple) and value and all(_is_number(item) for item in value)):
            raise GenerationError(f"{name}: {value!r} is not a list of numbers")
        return [float(item) for item in value]
    if kind is float and _is_number(value):
        return float(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str) and value and not value.startswith("-"):
        return value
    words = {float: "a finite number", bool: "true or false", int: "a whole number", str: "a name"}
    raise GenerationError(f"{name}: {value!r} is not {words[kind]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
