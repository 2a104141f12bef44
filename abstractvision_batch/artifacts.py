"""Artifact references, what a store of media must offer, and the adapter for another system's artifact store.

A reference is a plain dictionary that travels in JSON: `{"$artifact": id, "content_type": …, "sha256": …}`. An id is
the first 32 hex digits of the content's SHA-256, unless the caller or a foreign store chooses another.

`LocalAssetStore` and `FsspecAssetStore` are named here too, as the older library had it; they live in
`storage.asset_store`, a layer above, and are imported on first use. Not covered: the batch system's runs (`storage`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from abstractvision_batch.errors import AbstractVisionError

ARTIFACT_ID_LENGTH = 32
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_STORES = ("AssetStore", "FsspecAssetStore", "LocalAssetStore")

__all__ = [
    "ArtifactConflictError",
    "ArtifactNotFoundError",
    "InvalidArtifactIdError",
    "MediaStore",
    "RuntimeArtifactStoreAdapter",
    "compute_artifact_id",
    "get_artifact_id",
    "is_artifact_ref",
    "json_safe",
    "make_media_ref",
    "sha256_hex",
]


def __getattr__(name: str) -> Any:
    if name in _STORES:
        return getattr(import_module("abstractvision_batch.storage.asset_store"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_STORES])


class ArtifactNotFoundError(AbstractVisionError, FileNotFoundError):
    """No artifact has this id; also a `FileNotFoundError`, as in the older library."""


class InvalidArtifactIdError(AbstractVisionError, ValueError):
    """The id is not 32 lower-case hex digits; also a `ValueError`, as in the older library."""


class ArtifactConflictError(AbstractVisionError):
    """The id is taken by other content."""


class MediaStore(Protocol):
    """Where generated media go: bytes in, a reference out."""

    def store_bytes(
        self,
        content: bytes,
        *,
        content_type: str,
        filename: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        run_id: str | None = None,
        artifact_id: str | None = None,
    ) -> dict[str, Any]:
        """Store content and return a reference to it."""

    def load_bytes(self, artifact_id: str) -> bytes:
        """Return an artifact's content; `FileNotFoundError` if there is none."""

    def get_metadata(self, artifact_id: str) -> dict[str, Any] | None:
        """Return what was stored beside the content; None if there is no such artifact."""


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of content, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def compute_artifact_id(content: bytes) -> str:
    """Return the id that content has unless somebody chooses another."""
    return sha256_hex(content)[:ARTIFACT_ID_LENGTH]


def is_artifact_ref(value: object) -> bool:
    """Tell whether a value is a reference to an artifact."""
    return isinstance(value, dict) and isinstance(value.get("$artifact"), str) and bool(value["$artifact"])


def get_artifact_id(ref: Mapping[str, Any]) -> str:
    """Return the id that a reference names."""
    return str(ref["$artifact"])


def make_media_ref(
    artifact_id: str,
    *,
    content_type: str | None = None,
    filename: str | None = None,
    sha256: str | None = None,
    size_bytes: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a reference; what is empty or None is left out."""
    ref: dict[str, Any] = {"$artifact": str(artifact_id)}
    texts = {"content_type": content_type, "filename": filename, "sha256": sha256}
    ref.update({key: str(text) for key, text in texts.items() if text})
    if size_bytes is not None:
        ref["size_bytes"] = int(size_bytes)
    if metadata:
        ref["metadata"] = metadata
    return ref


def json_safe(value: object, *, max_depth: int = 32, max_items: int | None = None, max_chars: int | None = None) -> Any:
    """Turn any value into plain JSON types, cutting what is too deep, too long or not JSON.

    Bytes become their length, never their content; other foreign objects become their `str`.
    """
    match value:
        case None | bool():
            return value
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            number = float(value)
            return number if math.isfinite(number) else str(number)
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping() | list() | tuple() | set() | frozenset():
            pass
        case _:
            return str(value)[:max_chars]
    if max_depth <= 0:
        return "<too deep>"

    def inner(item: object) -> Any:
        return json_safe(item, max_depth=max_depth - 1, max_items=max_items, max_chars=max_chars)

    if isinstance(value, Mapping):
        return {str(key)[:max_chars]: inner(item) for key, item in list(value.items())[:max_items]}
    return [inner(item) for item in list(value)[:max_items]]


class RuntimeArtifactStoreAdapter:
    """A `MediaStore` over the artifact store of another system, by the shape of its methods alone.

    The store needs `.store(content, content_type=, run_id=, tags=, …)`, `.load(id)` and optionally `.get_metadata(id)`;
    its ids may look as they like. It is sent the keywords that its signature takes, so a `TypeError` raised *inside* it
    stays visible.

    Args:
        artifact_store: the foreign store.
        run_id: run of every call that names none.
        tags: tags of every call; the call's own win.
        metadata: metadata of every call; the call's own win.
    """

    def __init__(
        self,
        artifact_store: Any,
        *,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = artifact_store
        self._run_id = run_id
        self._tags = dict(tags or {})
        self._metadata = dict(metadata or {})

    def store_bytes(
        self,
        content: bytes,
        *,
        content_type: str,
        filename: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        run_id: str | None = None,
        artifact_id: str | None = None,
    ) -> dict[str, Any]:
        """Hand content to the store; metadata too, if it takes any."""
        store = self._method("store")
        content, content_type = bytes(content), str(content_type or DEFAULT_CONTENT_TYPE)
        sha256 = sha256_hex(content)
        named = {"filename": filename, "sha256": sha256}
        all_tags = {key: text for key, text in named.items() if text} | self._tags | dict(tags or {})
        all_metadata = self._metadata | (metadata or {})
        run = run_id or self._run_id
        keywords = {
            "content_type": content_type,
            "run_id": str(run) if run else None,
            "tags": {str(key): str(text) for key, text in all_tags.items()},
            "metadata": all_metadata or None,
            "artifact_id": str(artifact_id) if artifact_id else None,
        }
        taken = _keywords_taken(store, keywords)
        answer = store(content, **{key: keywords[key] for key in taken})
        found = answer.get("artifact_id") if isinstance(answer, Mapping) else getattr(answer, "artifact_id", None)
        if not isinstance(found, str) or not found.strip():
            raise AbstractVisionError(
                f"{type(self._store).__name__}.store: answered {type(answer).__name__} without an artifact_id"
            )
        return make_media_ref(
            found,
            content_type=content_type,
            filename=filename,
            sha256=sha256,
            size_bytes=len(content),
            metadata=all_metadata,
        )

    def load_bytes(self, artifact_id: str) -> bytes:
        """Return an artifact's content."""
        answer = self._method("load")(str(artifact_id))
        if answer is None:
            raise ArtifactNotFoundError(f"{artifact_id}: {type(self._store).__name__} has no such artifact")
        content = answer if isinstance(answer, bytes | bytearray) else getattr(answer, "content", None)
        if not isinstance(content, bytes | bytearray | memoryview):
            raise AbstractVisionError(
                f"{type(self._store).__name__}.load: answered {type(answer).__name__} instead of bytes or .content"
            )
        return bytes(content)

    def get_metadata(self, artifact_id: str) -> dict[str, Any] | None:
        """Return what the store knows of an artifact, as a dictionary; None if nothing."""
        if not callable(getattr(self._store, "get_metadata", None)):
            return None
        answer = self._store.get_metadata(str(artifact_id))
        if callable(getattr(answer, "to_dict", None)):
            answer = answer.to_dict()
        elif dataclasses.is_dataclass(answer) and not isinstance(answer, type):
            answer = dataclasses.asdict(answer)
        return answer if isinstance(answer, dict) else None

    def _method(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name, None)
        if not callable(method):
            raise AbstractVisionError(f"{type(self._store).__name__}: an artifact store needs a method {name}")
        found: Callable[..., Any] = method
        return found


def _keywords_taken(function: Callable[..., Any], keywords: Mapping[str, object]) -> list[str]:
    """Return which keywords a function takes, by its signature; the three oldest where it has none to read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # some built-ins
        return ["content_type", "run_id", "tags"]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return list(keywords)
    by_name = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return [key for key in keywords if key in by_name]
