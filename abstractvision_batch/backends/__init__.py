"""Backends: what generates. Every name below is imported on first use, and its dependencies later still."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abstractvision_batch.backends.base_backend import VisionBackend
    from abstractvision_batch.backends.huggingface_diffusers.backend import HuggingFaceDiffusersVisionBackend
    from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
    from abstractvision_batch.backends.openai_compatible.backend import OpenAICompatibleVisionBackend
    from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
    from abstractvision_batch.backends.procedural.backend import ProceduralBackendConfig, ProceduralVisionBackend
    from abstractvision_batch.backends.stable_diffusion_cpp.backend import StableDiffusionCppVisionBackend
    from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig

_HOME = {
    "HuggingFaceDiffusersBackendConfig": "huggingface_diffusers.config",
    "HuggingFaceDiffusersVisionBackend": "huggingface_diffusers.backend",
    "OpenAICompatibleBackendConfig": "openai_compatible.config",
    "OpenAICompatibleVisionBackend": "openai_compatible.backend",
    "ProceduralBackendConfig": "procedural.backend",
    "ProceduralVisionBackend": "procedural.backend",
    "StableDiffusionCppBackendConfig": "stable_diffusion_cpp.config",
    "StableDiffusionCppVisionBackend": "stable_diffusion_cpp.backend",
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
