"""Generated media in one flat folder or under one URL, in the older library's file format.

    <id><ext>                    the content; <ext> by content type
    <id>.meta.json               what was stored first under the id; written last, so it never points to nothing
    <id>.<12 hex>.meta.json      each later, different record of the same content, such as another prompt's

A file once written never changes: any number of threads and processes may store at the same time, and a crash leaves
at most content without its record, which the next writer of that content adopts. Not covered: deleting.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mimetypes
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from abstractvision_batch.artifacts import (
    DEFAULT_CONTENT_TYPE,
    ArtifactConflictError,
    ArtifactNotFoundError,
    InvalidArtifactIdError,
    compute_artifact_id,
    make_media_ref,
    sha256_hex,
)
from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.local import LocalStore

SCHEMA = "abstractvision.asset.v1"
META_SUFFIX = ".meta.json"

#: `mimetypes` reads the host's own tables, so one content type may have another extension elsewhere.
_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/x-portable-pixmap": ".ppm",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/octet-stream": ".bin",
}
#: What may differ between two records that say the same.
_VOLATILE = ("created_at", "content_file")
_ID = re.compile(r"[a-f0-9]{32}")

_logger = logging.getLogger(__name__)


class Files(Protocol):
    """What is needed of the folder; `storage.store.Store` has it."""

    def put(self, name: str, data: bytes) -> None:
        """Write whole, replacing what was there."""

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write whole unless the name exists; whether this call wrote it."""

    def read(self, name: str) -> bytes:
        """The whole file."""

    def exists(self, name: str) -> bool:
        """Whether the name exists."""

    def list(self, folder: str) -> list[str]:
        """Names in the folder."""

    def url_of(self, name: str) -> str:
        """What messages call the file."""


class AssetStore:
    """A `MediaStore` over any folder of files."""

    def __init__(self, files: Files) -> None:
        self._files = files

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
        """Store content and a record of it; content that is there already only gets the record.

        Raises:
            TypeError: content is not bytes, or metadata is not JSON; nothing was written.
            InvalidArtifactIdError: `artifact_id` is not 32 hex digits.
            ArtifactConflictError: `artifact_id` is taken by other content.
            StorageError: reading or writing failed.
        """
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError(f"content is {type(content).__name__}, not bytes")
        content, content_type = bytes(content), str(content_type or DEFAULT_CONTENT_TYPE)
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "artifact_id": _checked_id(artifact_id or compute_artifact_id(content)),
            "content_type": content_type,
            "size_bytes": len(content),
            "sha256": sha256_hex(content),
            "created_at": datetime.now(UTC).isoformat(),
        }
        if filename:
            record["filename"] = str(filename)
        if run_id:
            record["run_id"] = str(run_id)
        if tags:
            record["tags"] = {str(key): str(text) for key, text in tags.items()}
        if metadata:
            record["metadata"] = metadata
        _dump(record)  # before anything is written
        self._write(content, record)
        return make_media_ref(
            record["artifact_id"],
            content_type=content_type,
            filename=filename,
            sha256=record["sha256"],
            size_bytes=len(content),
            metadata=metadata,
        )

    def load_bytes(self, artifact_id: str) -> bytes:
        """Return an artifact's content.

        Raises:
            ArtifactNotFoundError: there is none.
        """
        name = self._content_name(_checked_id(artifact_id))
        if name is None:
            raise ArtifactNotFoundError(f"{self._files.url_of(str(artifact_id))}: no such artifact")
        return self._files.read(name)

    def get_metadata(self, artifact_id: str) -> dict[str, Any] | None:
        """Return the record written with the content, None if there is none or it is not readable."""
        return self._read_record(f"{_checked_id(artifact_id)}{META_SUFFIX}")

    def list_metadata(self, artifact_id: str) -> list[dict[str, Any]]:
        """Return every record of an artifact: the first one first, later ones by time."""
        first_name = f"{_checked_id(artifact_id)}{META_SUFFIX}"
        names = [name for name in self._names_of(artifact_id) if name.endswith(META_SUFFIX) and name != first_name]
        later = [record for name in names if (record := self._read_record(name))]
        first = self._read_record(first_name)
        return [*([first] if first else []), *sorted(later, key=lambda record: str(record.get("created_at")))]

    def _write(self, content: bytes, record: dict[str, Any]) -> None:
        artifact_id = record["artifact_id"]
        meta_name = f"{artifact_id}{META_SUFFIX}"
        held = self._read_record(meta_name)
        if held is None:
            blob = f"{artifact_id}{_extension(record['content_type'])}"
            wrote = self._put_content(blob, content, artifact_id)
            data = _dump(record | {"content_file": blob})
            if self._files.put_if_absent(meta_name, data):
                return
            held = self._read_record(meta_name)
            if held is None:
                _logger.warning("%s: replaced, because it was not readable", self._files.url_of(meta_name))
                self._files.put(meta_name, data)
                return
            if wrote and held.get("content_file") != blob:
                self._discard(blob)
        if held.get("sha256") != record["sha256"]:
            raise self._conflict(artifact_id)
        blob = _content_file(held, artifact_id) or f"{artifact_id}{_extension(record['content_type'])}"
        if not self._files.exists(blob):
            self._put_content(blob, content, artifact_id)
        if _essence(held) != _essence(record):
            digest = sha256_hex(_essence(record))[:12]
            name = f"{artifact_id}.{digest}{META_SUFFIX}"
            self._files.put_if_absent(name, _dump(record | {"content_file": blob}))

    def _put_content(self, name: str, content: bytes, artifact_id: str) -> bool:
        """Write content under a name that nobody's record points to yet; whether this call wrote it."""
        while not self._files.put_if_absent(name, content):
            try:
                there = self._files.read(name)
            except StorageError as error:
                # Whoever wrote it lost to another type and took it away. Asking whether it exists would not tell: a
                # third writer may have put it again meanwhile.
                if isinstance(error.__cause__, FileNotFoundError):
                    continue
                raise
            if there == content:
                return False
            if artifact_id != compute_artifact_id(content):
                raise self._conflict(artifact_id)
            # The id is the content's own, so what is there is half a file of a writer that wrote in place.
            self._files.put(name, content)
        return True

    def _conflict(self, artifact_id: str) -> ArtifactConflictError:
        return ArtifactConflictError(
            f"{self._files.url_of(artifact_id)}: the id is taken by other content (choose another, or none)"
        )

    def _discard(self, name: str) -> None:
        """Remove content that lost to the same content under another type. Harmless where it stays."""

    def _content_name(self, artifact_id: str) -> str | None:
        record = self.get_metadata(artifact_id)
        name = _content_file(record, artifact_id) if record else None
        if name is not None and self._files.exists(name):
            return name
        return next((name for name in self._names_of(artifact_id) if not name.endswith(META_SUFFIX)), None)

    def _names_of(self, artifact_id: str) -> list[str]:
        return [name for name in self._files.list("") if name.startswith(f"{artifact_id}.")]

    def _read_record(self, name: str) -> dict[str, Any] | None:
        if not self._files.exists(name):
            return None
        try:
            record = json.loads(self._files.read(name))
        except ValueError:  # half a file, left by the older library
            return None
        return record if isinstance(record, dict) else None


class LocalAssetStore(AssetStore):
    """Generated media in a local folder, `~/.abstractvision/assets` unless told otherwise."""

    def __init__(self, base_dir: str | Path | None = None) -> None:
        folder = Path.home() / ".abstractvision" / "assets" if base_dir is None else Path(base_dir).expanduser()
        self._base_dir = folder.resolve()
        self._base_dir.mkdir(parents=True, exist_ok=True)
        super().__init__(LocalStore(self._base_dir))

    @property
    def base_dir(self) -> Path:
        """The folder."""
        return self._base_dir

    def get_content_path(self, artifact_id: str) -> Path | None:
        """Return the file that holds an artifact's content; None if there is none."""
        name = self._content_name(_checked_id(artifact_id))
        return None if name is None else self._base_dir / name

    def _discard(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._base_dir / name).unlink()


class FsspecAssetStore(AssetStore):
    """Generated media under any fsspec URL (`s3://bucket/media`, `memory://media`) or local path.

    Args:
        base_url: the folder.
        storage_options: fsspec options, secrets included.
    """

    def __init__(self, base_url: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
        from abstractvision_batch.storage.store import open_store  # a local store needs no fsspec

        super().__init__(open_store(base_url, storage_options))
        self._base_url = base_url.rstrip("/")

    @property
    def base_url(self) -> str:
        """The folder, as given."""
        return self._base_url

    def get_content_url(self, artifact_id: str) -> str | None:
        """Return the URL of an artifact's content; None if there is none."""
        name = self._content_name(_checked_id(artifact_id))
        return None if name is None else self._files.url_of(name)


def _checked_id(artifact_id: str) -> str:
    if not _ID.fullmatch(str(artifact_id or "")):
        raise InvalidArtifactIdError(f"{artifact_id!r}: not an artifact id (32 lower-case hex digits)")
    return str(artifact_id)


def _extension(content_type: str) -> str:
    plain = content_type.partition(";")[0].strip().lower()
    return _EXTENSIONS.get(plain) or mimetypes.guess_extension(plain) or ".bin"


def _content_file(record: Mapping[str, Any], artifact_id: str) -> str | None:
    """Return the file that a record points to, unless it points out of the store."""
    name = record.get("content_file")
    inside = isinstance(name, str) and name.startswith(f"{artifact_id}.") and "/" not in name and "\\" not in name
    return name if inside else None


def _dump(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(record, indent=2, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise TypeError(f"metadata is not JSON: {exc} (`artifacts.json_safe` makes it so)") from exc


def _essence(record: Mapping[str, Any]) -> bytes:
    return _dump({key: value for key, value in record.items() if key not in _VOLATILE})
