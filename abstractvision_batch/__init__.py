"""Batch generation of images and videos from a YAML job spec, and the vision library underneath.

Importing this package loads no heavy dependency; every name below is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from abstractvision_batch.version import __version__

if TYPE_CHECKING:
    from abstractvision_batch.artifacts import RuntimeArtifactStoreAdapter, is_artifact_ref
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.runs.opened import open_run
    from abstractvision_batch.storage.asset_store import FsspecAssetStore, LocalAssetStore
    from abstractvision_batch.types import ProviderModelInfo
    from abstractvision_batch.verbs.finish import RunResult
    from abstractvision_batch.vision_manager import VisionManager

_HOME = {
    "FsspecAssetStore": "storage.asset_store",
    "LocalAssetStore": "storage.asset_store",
    "ProviderModelInfo": "types",
    "RunResult": "verbs.finish",
    "RuntimeArtifactStoreAdapter": "artifacts",
    "VisionManager": "vision_manager",
    "VisionModelCapabilitiesRegistry": "model_capabilities",
    "is_artifact_ref": "artifacts",
    "open_run": "runs.opened",
}

__all__ = [
    "FsspecAssetStore",
    "LocalAssetStore",
    "ProviderModelInfo",
    "RunResult",
    "RuntimeArtifactStoreAdapter",
    "VisionManager",
    "VisionModelCapabilitiesRegistry",
    "__version__",
    "is_artifact_ref",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
