"""One run folder on any storage: bytes under names, put whole, put only if absent, listed.

`put_if_absent` is what makes a run exactly-once: of two writers of one name, one is told that it won. Names are
relative, with ``/``. A reader never sees half an object: local files appear by link or rename, objects by one request.

What each kind of store guarantees stands in docs/storage.md.
"""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fsspec.implementations.local import LocalFileSystem

from abstractvision_batch.errors import OptionalDependencyMissingError, StorageError
from abstractvision_batch.storage.failures import classify, storage_error
from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.storage.names import StoredFile
from abstractvision_batch.storage.objects import ObjectStore
from abstractvision_batch.storage.retries import Retries
from abstractvision_batch.storage.urls import DRIVERS, open_filesystem, protocol_of


class Store(Protocol):
    """What the batch system needs of a storage."""

    @property
    def url(self) -> str:
        """The folder, as given."""

    def put(self, name: str, data: bytes | Path) -> None:
        """Write bytes, or the content of a local file, whole, replacing what was there."""

    def put_if_absent(self, name: str, data: bytes | Path) -> bool:
        """Do the same unless the name exists. Returns whether this call wrote it."""

    def probe_conditional_put(self) -> bool | None:
        """Return whether the store honours conditional puts: exactly one of two racing writers wins. None if unknown.

        Writes in the folder, and removes what it wrote.
        """

    def check_writable(self) -> None:
        """Raise StorageError if it shows, without leaving a trace, that nothing can be written here."""

    def sync_folder(self, name: str) -> None:
        """Make the names in a folder survive a power cut."""

    def read(self, name: str) -> bytes:
        """The whole object; StorageError if it is not there."""

    def read_range(self, name: str, offset_bytes: int, size_bytes: int) -> bytes:
        """A part of the object in one request; what is there of it where the object ends before."""

    def open(self, name: str) -> BinaryIO:
        """A seekable stream, for reading parts of a large object."""

    def exists(self, name: str) -> bool:
        """Whether the name exists now, not in some cached listing."""

    def list(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted, without the folder; empty where there is no such folder."""

    def scan(self, folder: str) -> builtins.list[StoredFile]:
        """Return the files directly in a folder, sorted, including temporary files left by a crash."""

    def list_folders(self, folder: str) -> builtins.list[str]:
        """Folders directly in a folder, sorted, without those whose name starts with a dot."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing where it is not there."""

    def url_of(self, name: str) -> str:
        """What a person or another program opens."""


def open_store(url: str, options: Mapping[str, Any] | None = None, *, retries: Retries | None = None) -> Store:
    """The store at a path or URL.

    Args:
        url: A local path, or any fsspec URL (``s3://bucket/runs/a``, ``memory://a``).
        options: fsspec options with secrets resolved.
        retries: How often and how long an object store's requests are tried.

    Raises:
        OptionalDependencyMissingError: the protocol's driver is not installed.
        StorageError: the protocol is unknown or its options are wrong.
    """
    protocol = protocol_of(url)
    if "::" in url.split("://", 1)[0]:
        raise StorageError(f"{url}: a chain of file systems cannot hold a run (name the store itself)")
    if "://" in url and not url.split("://", 1)[1].strip("/"):
        raise StorageError(f"{url}: names no folder (as {protocol}://name)")
    module, extra = DRIVERS.get(protocol, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise OptionalDependencyMissingError(
            f'{url}: {protocol}:// needs {module} (run: pip install "abstractvision_batch[{extra}]")'
        )
    try:
        filesystem, root = open_filesystem(url, options or {})
    except Exception as exc:
        # Drivers connect lazily, but look for credentials and check their options here.
        if not isinstance(exc, ImportError | TypeError) and classify(exc) is None and protocol in DRIVERS:
            raise
        raise storage_error(f"{url}: cannot be opened", exc) from exc
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(Path(root))
    return ObjectStore(url.rstrip("/"), filesystem, root.rstrip("/"), retries=retries)
