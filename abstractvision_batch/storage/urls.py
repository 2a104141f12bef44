"""Files at URLs that are no part of a run (prompt files, input images), opened with our client options and retries.

Not covered: what may be missing. Drivers' own errors come through where the caller has a word for them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from abstractvision_batch.errors import StorageError
from abstractvision_batch.storage.failures import Failure, classify, explain
from abstractvision_batch.storage.object_reader import open_object
from abstractvision_batch.storage.regular import require_regular
from abstractvision_batch.storage.retries import WEB_TRIES, Retries

T = TypeVar("T")

#: A part of a file, as of a picture in a tar: its first byte, and the one behind its last.
_PART = re.compile(r"(?P<file>.+)#bytes=(?P<start>[0-9]{1,16})-(?P<end>[0-9]{1,16})", re.DOTALL)

#: Their servers need not know ranges, nor sizes.
WEB = ("http://", "https://")

#: Protocol → (module that must be importable, extra of this package that installs it).
DRIVERS = {
    "abfs": ("adlfs", "azure"),
    "abfss": ("adlfs", "azure"),
    "az": ("adlfs", "azure"),
    "adl": ("adlfs", "azure"),
    "gcs": ("gcsfs", "gcs"),
    "gs": ("gcsfs", "gcs"),
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
}


def is_remote(name: str) -> bool:
    """Whether a source or image is a URL that fsspec must open."""
    return "://" in name or "::" in name


def protocol_of(url: str) -> str:
    """Return the protocol of a URL; `file` for a path."""
    return url.split("://", 1)[0] if "://" in url else "file"


def open_filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a URL, and the URL's path as it spells it; raises what the driver raises.

    Args:
        url: Any fsspec URL. The options of a chain (``zip://a.png::s3://…``) are the caller's alone.
        options: fsspec options with secrets resolved.
    """
    protocol = protocol_of(url)
    chosen = dict(options) if "::" in url else client_options(protocol, options)
    filesystem, path = fsspec.core.url_to_fs(url, **chosen)
    if protocol in ("s3", "s3a") and "::" not in url:
        filesystem.retries = 1  # s3fs's own, over botocore's; see client_options
    return filesystem, path


def part_of(url: str, offset_bytes: int, size_bytes: int) -> str:
    """Return the URL, path or name of a part of a file."""
    return f"{url}#bytes={offset_bytes}-{offset_bytes + size_bytes}"


def split_part(url: str) -> tuple[str, int | None, int | None]:
    """Return the file of a URL, and where the part of it that is meant begins and ends; None where it is the whole."""
    match = _PART.fullmatch(url)
    return (url, None, None) if match is None else (match["file"], int(match["start"]), int(match["end"]))


def read_url(url: str, options: Mapping[str, Any]) -> bytes:
    """The whole file, tried again where that may help; raises what the driver raises."""
    return _patience(url).call(lambda: _read(url, options), what=url)


def open_url(url: str, options: Mapping[str, Any]) -> BinaryIO:
    """A seekable stream that reads only the parts it is asked for, from the web all of it.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the store refuses it.
        StorageError: the store fails, here or while the stream is read.
        ImportError, ValueError: there is no such driver.
    """
    if url.startswith(WEB) or split_part(url)[1] is not None:
        return io.BytesIO(_at_the_edge(url, lambda: _read(url, options)))
    filesystem, path = open_filesystem(url, options)
    require_file(filesystem, path)
    size_bytes = int(_at_the_edge(url, lambda: filesystem.info(path))["size"])

    def read_range(start: int, end: int) -> bytes:
        try:
            return _at_the_edge(url, lambda: bytes(filesystem.cat_file(path, start=start, end=end)))
        except OSError as exc:  # whoever reads the stream would take it for a broken file
            raise StorageError(f"{url}: {exc}") from exc

    return open_object(size_bytes, read_range)


def _patience(url: str) -> Retries:
    return Retries(tries=WEB_TRIES) if url.startswith(WEB) else Retries()


def require_file(filesystem: Any, path: str) -> None:
    """Refuse a FIFO, a device or a socket of this machine, whose reading may never end.

    Raises:
        OSError: it is one.
    """
    if isinstance(filesystem, LocalFileSystem):
        require_regular(path)


def _read(url: str, options: Mapping[str, Any]) -> bytes:
    file, start, end = split_part(url)
    filesystem, path = open_filesystem(file, options)
    require_file(filesystem, path)
    return bytes(filesystem.cat_file(path) if start is None else filesystem.cat_file(path, start=start, end=end))


def _at_the_edge(url: str, action: Callable[[], T]) -> T:
    try:
        return _patience(url).call(action, what=url)
    except Exception as exc:
        match classify(exc):
            case None:
                raise
            case Failure.TRANSIENT:
                said = f"{url}: {explain(exc, writing=False)} (running again tries again)"
                raise StorageError(said, transient=True) from exc
            case Failure.MISSING | Failure.NO_BUCKET:
                raise FileNotFoundError(url) from exc
        raise OSError(explain(exc, writing=False)) from exc


#: At least as many as `execution.writer_threads` may be. botocore's own 10 caps s3fs at 10 requests in flight, however
#: many threads put: 173 instead of 307 puts/s with 32 threads at 40 ms each (2-core Debian 12, 2026-11).
CONNECTIONS = 256
#: Parts of one large object in flight; each is held in memory, 50 MB of it.
PARTS_IN_FLIGHT = 4
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
#: gcsfs: of one whole request, up to 50 MB of body included.
REQUEST_TIMEOUT_S = 300

_S3: dict[str, Any] = {
    "max_concurrency": PARTS_IN_FLIGHT,
    "config_kwargs": {
        "max_pool_connections": CONNECTIONS,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # `storage.retries` does it: a client that puts again by itself may meet its own object and call it another's.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    },
}
_GCS: dict[str, Any] = {"requests_timeout": REQUEST_TIMEOUT_S}
_AZURE: dict[str, Any] = {
    "max_concurrency": PARTS_IN_FLIGHT,
    "connection_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
}
#: By protocol of the URL.
DEFAULTS = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "abfs": _AZURE, "abfss": _AZURE, "az": _AZURE}


def client_options(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The user's options over ours; nested ones (`config_kwargs`) key by key."""
    # Another process's writes do not show in a cached listing.
    return _over({"use_listings_cache": False, **DEFAULTS.get(protocol, {})}, options)


def _over(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in theirs.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _over(merged[name], value) if nested else value
    return merged
