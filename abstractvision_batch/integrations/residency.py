"""Which local models a capability holds in memory, in the words of AbstractCore's residency calls.

A record is what AbstractCore's server shows of a loaded model. Not covered: loading and unloading
(`abstractcore_plugin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from abstractvision_batch.types import Task

#: Names that hosts give a backend besides our own.
PROVIDERS = {"diffusers": "huggingface"}

#: Names of a task that AbstractCore's requests use.
TASK_NAMES: dict[str, Task] = {
    "t2i": "text_to_image",
    "image_generation": "text_to_image",
    "i2i": "image_to_image",
    "image_edit": "image_to_image",
    "t2v": "text_to_video",
    "video_generation": "text_to_video",
    "i2v": "image_to_video",
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory; times in seconds since 1970."""

    backend_kind: str
    model: str | None
    task: str | None
    source: str
    """`explicit_preload` or `request`."""
    resident: bool
    """Whether somebody asked for it to stay."""
    loaded_at: float
    last_used_at: float

    @property
    def load_id(self) -> str:
        """Its name in requests to unload it."""
        return f"{self.backend_kind}:{self.model or 'default'}"

    def used(self) -> LoadedModel:
        """Return it as used now."""
        return replace(self, last_used_at=_now())

    def to_json(self, *, loaded: bool = True) -> dict[str, Any]:
        """Return the record that a host shows."""
        return {
            **asdict(self),
            "provider": PROVIDERS.get(self.backend_kind, self.backend_kind),
            "load_id": self.load_id,
            "scope": "process",
            "loaded": loaded,
            "resident": self.resident and loaded,
            "state": "loaded" if loaded else "unloaded",
            "loaded_at": self.loaded_at if loaded else None,
            "error": None,
        }

    def matches(self, filters: Mapping[str, Any] | None) -> bool:
        """Return whether every filter that is given, a key of the record, has the record's value."""
        record = self.to_json()
        asked = {name: value for name, value in (filters or {}).items() if name in record and value is not None}
        if "task" in asked:
            asked["task"] = task_named(asked["task"])
        if asked.get("provider") == self.backend_kind:
            asked["provider"] = record["provider"]
        return all(record[name] == value for name, value in asked.items())


def note_loaded(backend_kind: str, model: str | None, task: str | None, *, explicit: bool) -> LoadedModel:
    """Return the record of a model that was loaded now."""
    source = "explicit_preload" if explicit else "request"
    return LoadedModel(backend_kind, model, task, source, explicit, _now(), _now())


def task_named(name: object) -> str | None:
    """Return the task that a request calls by one of its names; an unknown name as it is."""
    text = str(name or "").strip().lower().replace("-", "_")
    return TASK_NAMES.get(text, text) or None


def _now() -> float:
    return datetime.now(UTC).timestamp()
