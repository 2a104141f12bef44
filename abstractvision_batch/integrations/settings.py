"""What a host says about vision: its own configuration first, the environment second.

A setting is the key or attribute `vision_<name>` of the owner's `config`, or of the owner itself, else the first of its
environment variables that is set (`sdcpp_cwd` has none: a working folder is the owner's to choose).
Not covered: what the settings make (`configured_backend`).
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.errors import BackendNotConfiguredError

ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "backend": ("ABSTRACTVISION_BACKEND",),
    "model_id": ("ABSTRACTVISION_MODEL_ID",),
    "capabilities_model_id": ("ABSTRACTVISION_CAPABILITIES_MODEL_ID",),
    "timeout_s": ("ABSTRACTVISION_TIMEOUT_S",),
    "base_url": ("ABSTRACTVISION_BASE_URL",),
    "api_key": ("ABSTRACTVISION_API_KEY",),
    "models_path": ("ABSTRACTVISION_MODELS_PATH",),
    "image_generations_path": ("ABSTRACTVISION_IMAGES_GENERATIONS_PATH",),
    "image_edits_path": ("ABSTRACTVISION_IMAGES_EDITS_PATH",),
    "text_to_video_path": ("ABSTRACTVISION_TEXT_TO_VIDEO_PATH",),
    "image_to_video_path": ("ABSTRACTVISION_IMAGE_TO_VIDEO_PATH",),
    "image_to_video_mode": ("ABSTRACTVISION_IMAGE_TO_VIDEO_MODE",),
    "device": ("ABSTRACTVISION_DIFFUSERS_DEVICE",),
    "torch_dtype": ("ABSTRACTVISION_DIFFUSERS_TORCH_DTYPE",),
    "allow_download": ("ABSTRACTVISION_DIFFUSERS_ALLOW_DOWNLOAD",),
    "auto_retry_fp32": ("ABSTRACTVISION_DIFFUSERS_AUTO_RETRY_FP32",),
    "cache_dir": ("ABSTRACTVISION_DIFFUSERS_CACHE_DIR",),
    "revision": ("ABSTRACTVISION_DIFFUSERS_REVISION",),
    "variant": ("ABSTRACTVISION_DIFFUSERS_VARIANT",),
    "diffusers_model_id": ("ABSTRACTVISION_DIFFUSERS_MODEL_ID",),
    "sdcpp_bin": ("ABSTRACTVISION_SDCPP_BIN",),
    "sdcpp_model": ("ABSTRACTVISION_SDCPP_MODEL",),
    "sdcpp_diffusion_model": ("ABSTRACTVISION_SDCPP_DIFFUSION_MODEL",),
    "sdcpp_vae": ("ABSTRACTVISION_SDCPP_VAE",),
    "sdcpp_llm": ("ABSTRACTVISION_SDCPP_LLM",),
    "sdcpp_llm_vision": ("ABSTRACTVISION_SDCPP_LLM_VISION",),
    "sdcpp_clip_l": ("ABSTRACTVISION_SDCPP_CLIP_L",),
    "sdcpp_clip_g": ("ABSTRACTVISION_SDCPP_CLIP_G",),
    "sdcpp_t5xxl": ("ABSTRACTVISION_SDCPP_T5XXL",),
    "sdcpp_extra_args": ("ABSTRACTVISION_SDCPP_EXTRA_ARGS",),
    # OpenAI's own variables belong together: a key that was meant for its server goes to no other.
    "openai_base_url": ("OPENAI_BASE_URL",),
    "openai_api_key": ("OPENAI_API_KEY",),
    "openai_model_id": ("OPENAI_IMAGE_MODEL_ID", "OPENAI_IMAGE_MODEL"),
}

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class Settings:
    """The settings of one owner, read anew at every call."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def value(self, name: str) -> Any:
        """Return what the owner says, as it is; None if nothing."""
        key = f"vision_{name}"
        config = getattr(self._owner, "config", None)
        for source in (config, self._owner):
            found = source.get(key) if isinstance(source, Mapping) else getattr(source, key, None)
            if found is not None:
                return found
        return None

    def text(self, name: str) -> str | None:
        """Return a setting as text; None where it is absent or blank."""
        value = self.value(name)
        candidates = [value] if value is not None else [os.environ.get(key) for key in ENVIRONMENT.get(name, ())]
        return next((text for value in candidates if value is not None and (text := str(value).strip())), None)

    def texts(self, names: Mapping[str, str]) -> dict[str, str]:
        """Return those settings that are there, under other names: {name wanted: name of the setting}."""
        return {wanted: text for wanted, name in names.items() if (text := self.text(name)) is not None}

    def flag(self, name: str) -> bool | None:
        """Return a yes or no; None where nothing is said."""
        text = self.text(name)
        if text is None or text.lower() in _TRUE | _FALSE:
            return None if text is None else text.lower() in _TRUE
        raise self._wrong(name, text, "true or false")

    def seconds(self, name: str) -> float | None:
        """Return a time above 0; None where nothing is said."""
        text = self.text(name)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise self._wrong(name, text, "seconds above 0")
        return number

    def arguments(self, name: str) -> tuple[str, ...]:
        """Return command line arguments, from a list or from one shell-quoted text."""
        value = self.value(name)
        if isinstance(value, list | tuple):
            return tuple(map(str, value))
        text = self.text(name) or ""
        try:
            return tuple(shlex.split(text))
        except ValueError as exc:
            raise self._wrong(name, text, f"shell words; {exc}") from exc

    def _wrong(self, name: str, text: str, expected: str) -> BackendNotConfiguredError:
        return BackendNotConfiguredError(f"{describe(name)}: {text!r} is not what it takes ({expected})")


def describe(name: str) -> str:
    """Return where a setting may be given, for messages."""
    return " or ".join([f"vision_{name}", *ENVIRONMENT.get(name, ())])
