"""Backends: what generates. Every name below is imported on first use, and its dependencies later still."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abstractvision_batch.backends.base_backend import VisionBackend
    from abstractvision_batch.backends.huggingface_diffusers import (
        HuggingFaceDiffusersBackendConfig,
        HuggingFaceDiffusersVisionBackend,
    )
    from abstractvision_batch.backends.openai_compatible import (
        OpenAICompatibleBackendConfig,
        OpenAICompatibleVisionBackend,
    )
    from abstractvision_batch.backends.procedural import ProceduralBackendConfig, ProceduralVisionBackend
    from abstractvision_batch.backends.stable_diffusion_cpp import (
        StableDiffusionCppBackendConfig,
        StableDiffusionCppVisionBackend,
    )

_HOME = {
    "HuggingFaceDiffusersBackendConfig": "huggingface_diffusers",
    "HuggingFaceDiffusersVisionBackend": "huggingface_diffusers",
    "OpenAICompatibleBackendConfig": "openai_compatible",
    "OpenAICompatibleVisionBackend": "openai_compatible",
    "ProceduralBackendConfig": "procedural",
    "ProceduralVisionBackend": "procedural",
    "StableDiffusionCppBackendConfig": "stable_diffusion_cpp",
    "StableDiffusionCppVisionBackend": "stable_diffusion_cpp",
    "VisionBackend": "base_backend",
}

__all__ = [
    "HuggingFaceDiffusersBackendConfig",
    "HuggingFaceDiffusersVisionBackend",
    "OpenAICompatibleBackendConfig",
    "OpenAICompatibleVisionBackend",
    "ProceduralBackendConfig",
    "ProceduralVisionBackend",
    "StableDiffusionCppBackendConfig",
    "StableDiffusionCppVisionBackend",
    "VisionBackend",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
