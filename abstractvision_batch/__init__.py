"""Batch generation of images and videos from a YAML job spec, and the vision library underneath.

Importing this package loads no heavy dependency; every name below is imported on first use. The
other verbs are in rooms of their own: `submit.submit`, `schedule.schedule`, `schedule.backfill`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from abstractvision_batch.version import __version__

if TYPE_CHECKING:
    from abstractvision_batch.artifacts import RuntimeArtifactStoreAdapter, is_artifact_ref
    from abstractvision_batch.job.load import load_job
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.runs.opened import open_run
    from abstractvision_batch.storage.asset_store import FsspecAssetStore, LocalAssetStore
    from abstractvision_batch.types import ProviderModelInfo
    from abstractvision_batch.verbs.audit import audit
    from abstractvision_batch.verbs.diff import diff
    from abstractvision_batch.verbs.finish import RunResult
    from abstractvision_batch.verbs.generate import generate
    from abstractvision_batch.verbs.lock import lock
    from abstractvision_batch.verbs.rerun import rerun
    from abstractvision_batch.verbs.retry import retry
    from abstractvision_batch.verbs.run import run
    from abstractvision_batch.verbs.verify import verify
    from abstractvision_batch.vision_manager import VisionManager

_HOME = {
    "FsspecAssetStore": "storage.asset_store",
    "LocalAssetStore": "storage.asset_store",
    "ProviderModelInfo": "types",
    "RunResult": "verbs.finish",
    "RuntimeArtifactStoreAdapter": "artifacts",
    "VisionManager": "vision_manager",
    "VisionModelCapabilitiesRegistry": "model_capabilities",
    "audit": "verbs.audit",
    "diff": "verbs.diff",
    "generate": "verbs.generate",
    "is_artifact_ref": "artifacts",
    "load_job": "job.load",
    "lock": "verbs.lock",
    "open_run": "runs.opened",
    "rerun": "verbs.rerun",
    "retry": "verbs.retry",
    "run": "verbs.run",
    "verify": "verbs.verify",
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
    "audit",
    "diff",
    "generate",
    "is_artifact_ref",
    "load_job",
    "lock",
    "open_run",
    "rerun",
    "retry",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
