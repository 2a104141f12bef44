"""What stable-diffusion.cpp's sd-server is told: it reads everything beyond prompt, size and n as JSON in the prompt.

It passes over what it does not know and runs something else, so what it would pass over is refused here. Read in the
source of the server that stable-diffusion-cpp-python 0.4.7 vendors, and tried on it.

Not covered: its own API (`stable_diffusion_cpp.server_runner`), which knows samplers by name and cancels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import VisionRequest

#: Where its JSON has each parameter of a request.
PLACES: dict[str, tuple[str, ...]] = {
    "negative_prompt": ("negative_prompt",),
    "seed": ("seed",),
    "strength": ("strength",),
    "steps": ("sample_params", "sample_steps"),
    "guidance_scale": ("sample_params", "guidance", "txt_cfg"),
}
_OPEN, _CLOSE = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"
#: Fields of the call itself; everything else of `extra` is JSON in the prompt.
OF_THE_CALL = ("n", "images", "size", "output_format", "output_compression")
KNOWN = (
    "auto_resize_ref_image", "cache_mode", "cache_option", "clip_skip", "control_image", "control_strength",
    "embed_image_metadata", "hires", "increase_ref_index", "lora", "sample_params", "scm_mask", "vae_tiling_params",
)  # fmt: skip


def prompt_with_arguments(request: VisionRequest, extra: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The prompt with its parameters as JSON, and what of `extra` goes beside it.

    Raises:
        GenerationError: a value that the server would cut down, a key it does not know, or a tag in the prompt.
    """
    prompt = request.prompt or ""
    if _OPEN in prompt:
        raise GenerationError(f"openai: prompt: {_OPEN} in it would set parameters (use extra)")
    arguments: dict[str, Any] = {}
    for name, path in PLACES.items():
        if (value := getattr(request, name, None)) is not None:
            _place(arguments, path, _checked(name, value))
    for name, value in extra.items():
        if name in OF_THE_CALL:
            continue
        if name not in KNOWN:
            hint = hint_for(name, KNOWN, f"known: {', '.join(sorted((*KNOWN, *OF_THE_CALL)))}")
            raise GenerationError(f"openai: extra.{name}: unknown to sd-server ({hint})")
        _merge(arguments, name, value, f"extra.{name}")
    text = f"{prompt}{_OPEN}{json.dumps(arguments)}{_CLOSE}" if arguments else prompt
    return text, {name: value for name, value in extra.items() if name in OF_THE_CALL}


def _checked(name: str, value: Any) -> Any:
    # 0 means without guidance here as in Diffusers; the server reads it as without the prompt
    return 1.0 if name == "guidance_scale" and value == 0 else value


def _place(arguments: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        arguments = arguments.setdefault(key, {})
    arguments[path[-1]] = value


def _merge(arguments: dict[str, Any], key: str, value: Any, name: str) -> None:
    if isinstance(value, Mapping) and isinstance(arguments.get(key, {}), dict):
        inner = arguments.setdefault(key, {})
        for more, deeper in value.items():
            _merge(inner, more, deeper, f"{name}.{more}")
    elif key in arguments:
        raise GenerationError(f"openai: {name}: the request has it too (leave one of them out)")
    else:
        arguments[key] = value
