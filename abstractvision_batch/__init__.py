"""Batch generation of images and videos from a YAML job spec, and the vision library underneath.

    import abstractvision_batch as avb
    result = avb.run("poster.yaml")          # a function for each verb of the command line, by its name

Importing this package loads no heavy dependency; every name below is imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from abstractvision_batch.version import __version__

if TYPE_CHECKING:
    from abstractvision_batch.artifacts import RuntimeArtifactStoreAdapter, is_artifact_ref
    from abstractvision_batch.job.load import load_job
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.runs.listing import list_runs
    from abstractvision_batch.runs.opened import Run, open_run
    from abstractvision_batch.schedule.backfill import backfill
    from abstractvision_batch.schedule.schedule import schedule
    from abstractvision_batch.storage.asset_store import FsspecAssetStore, LocalAssetStore
    from abstractvision_batch.submit.submit import submit
    from abstractvision_batch.types import ProviderModelInfo
    from abstractvision_batch.verbs.audit import audit
    from abstractvision_batch.verbs.diff import diff
    from abstractvision_batch.verbs.fetch import fetch
    from abstractvision_batch.verbs.finish import RunResult
    from abstractvision_batch.verbs.generate import generate
    from abstractvision_batch.verbs.lock import lock
    from abstractvision_batch.verbs.plan import Plan, plan
    from abstractvision_batch.verbs.rerun import rerun
    from abstractvision_batch.verbs.retry import retry
    from abstractvision_batch.verbs.run import run
    from abstractvision_batch.verbs.show_backend import show_backend
    from abstractvision_batch.verbs.status import status
    from abstractvision_batch.verbs.validate import validate
    from abstractvision_batch.verbs.verify import verify
    from abstractvision_batch.vision_manager import VisionManager

_HOME = {
    "FsspecAssetStore": "storage.asset_store",
    "LocalAssetStore": "storage.asset_store",
    "Plan": "verbs.plan",
    "ProviderModelInfo": "types",
    "Run": "runs.opened",
    "RunResult": "verbs.finish",
    "RuntimeArtifactStoreAdapter": "artifacts",
    "VisionManager": "vision_manager",
    "VisionModelCapabilitiesRegistry": "model_capabilities",
    "audit": "verbs.audit",
    "backfill": "schedule.backfill",
    "diff": "verbs.diff",
    "fetch": "verbs.fetch",
    "generate": "verbs.generate",
    "is_artifact_ref": "artifacts",
    "list_runs": "runs.listing",
    "load_job": "job.load",
    "lock": "verbs.lock",
    "open_run": "runs.opened",
    "plan": "verbs.plan",
    "rerun": "verbs.rerun",
    "retry": "verbs.retry",
    "run": "verbs.run",
    "schedule": "schedule.schedule",
    "show_backend": "verbs.show_backend",
    "status": "verbs.status",
    "submit": "submit.submit",
    "validate": "verbs.validate",
    "verify": "verbs.verify",
}

__all__ = [
    "FsspecAssetStore",
    "LocalAssetStore",
    "Plan",
    "ProviderModelInfo",
    "Run",
    "RunResult",
    "RuntimeArtifactStoreAdapter",
    "VisionManager",
    "VisionModelCapabilitiesRegistry",
    "__version__",
    "audit",
    "backfill",
    "diff",
    "fetch",
    "generate",
    "is_artifact_ref",
    "list_runs",
    "load_job",
    "lock",
    "open_run",
    "plan",
    "rerun",
    "retry",
    "run",
    "schedule",
    "show_backend",
    "status",
    "submit",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps the names of verbs for their functions: importing the room `plan` would else bind `plan` to the room."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
