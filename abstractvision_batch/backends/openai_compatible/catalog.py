"""The provider's catalog of models, and which of them do a task as far as the catalog says.

Servers describe abilities under many keys and words; all are read as tokens. A model that says nothing is kept, except
OpenAI's own, where the family tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.failures import Reply
from abstractvision_batch.backends.openai_compatible.replies import read_json
from abstractvision_batch.errors import CapabilityNotSupportedError, InvalidOutputError
from abstractvision_batch.types import TASKS, ProviderModelInfo

_ABILITY_KEYS = (
    "capabilities", "modalities", "tasks", "supported_tasks", "features", "endpoints", "supported_endpoints",
    "permissions", "output_modalities",
)  # fmt: skip
_WORDS: Mapping[str, frozenset[str]] = {
    "text_to_image": frozenset(
        {"text_to_image", "t2i", "txt2img", "image_generation", "image_generations", "images_generations", "image"}
    ),
    "image_to_image": frozenset(
        {"image_to_image", "i2i", "img2img", "image_edit", "image_edits", "images_edits", "image_editing", "inpainting"}
    ),
    "text_to_video": frozenset({"text_to_video", "t2v", "txt2vid", "video_generation", "videos", "video"}),
    "image_to_video": frozenset({"image_to_video", "i2v", "img2vid", "videos"}),
    "multi_view_image": frozenset({"multi_view_image", "multi_view"}),
}
_OFFICIAL_IMAGE = ("gpt-image", "chatgpt-image", "dall-e")
_OFFICIAL_VIDEO = ("sora",)


def read_catalog(reply: Reply, config: OpenAICompatibleBackendConfig, *, task: str | None) -> list[ProviderModelInfo]:
    """The models of a `/models` reply in its order, those that do `task` if it is given.

    Raises:
        InvalidOutputError: the reply is no catalog.
        CapabilityNotSupportedError: there is no such task.
    """
    if task is not None and task not in TASKS:
        raise CapabilityNotSupportedError(f"{task!r} is no task (there are: {', '.join(TASKS)})")
    entries = read_json(reply, secrets=config.secrets).get("data")
    if not isinstance(entries, list):
        raise InvalidOutputError(f"openai: {reply.url}: the reply has no list of models under data")
    models = [model for entry in entries if (model := _read_model(entry)) is not None]
    return [model for model in models if task is None or _does(model, task, official=config.is_official)]


def _read_model(entry: Any) -> ProviderModelInfo | None:
    if isinstance(entry, str):
        entry = {"id": entry}
    if not isinstance(entry, dict):
        return None
    name = next((entry[key] for key in ("id", "model", "name") if isinstance(entry.get(key), str) and entry[key]), None)
    if name is None:
        return None
    created, owner, kind = entry.get("created"), entry.get("owned_by"), entry.get("object")
    return ProviderModelInfo(
        id=name,
        object=kind if isinstance(kind, str) else None,
        created=created if isinstance(created, int) else None,
        owned_by=owner if isinstance(owner, str) else None,
        capabilities=tuple(sorted({word for key in _ABILITY_KEYS for word in _words(entry.get(key))})),
        raw=entry,
    )


def _does(model: ProviderModelInfo, task: str, *, official: bool) -> bool:
    if model.capabilities:
        return not _WORDS[task].isdisjoint(model.capabilities)
    if not official:
        return True
    name = model.id.rpartition("/")[2]
    return name.startswith(_OFFICIAL_IMAGE if task.endswith("image") else _OFFICIAL_VIDEO)


def _words(value: Any) -> Iterator[str]:
    """Every word that says something is there: `{"text_to_image": false}` says the opposite."""
    if isinstance(value, str):
        word = value.lower().strip("/").removeprefix("v1/")
        yield word.translate(str.maketrans("-/. ", "____"))
    elif isinstance(value, dict):
        for key, inner in value.items():
            if inner is not False and inner is not None:
                yield from _words(str(key))
                yield from _words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)
