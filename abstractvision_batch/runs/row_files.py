"""Which files a row of the manifest has, and their bytes: files of their own, or ranges of their shard's container.

In a container (a tar or a Parquet file) every picture lies as it is, uncompressed and in one piece, so one picture is
one ranged read, whatever the container's format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from abstractvision_batch.errors import GenerationError, StorageError
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.media.video import decode_video
from abstractvision_batch.storage.json_file import parse_json
from abstractvision_batch.storage.names import check_name
from abstractvision_batch.storage.store import Store

#: What of a row says which files it has.
FILE_COLUMNS = (
    "index",
    "request_id",
    "status",
    "file_name",
    "member",
    "offset_bytes",
    "container_bytes",
    "size_bytes",
    "sha256",
    "metadata_json",
)


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file that a row names."""

    request_id: str
    name: str
    """In the store; of the container where there is one."""
    size_bytes: int
    sha256: str
    offset_bytes: int | None = None
    """Where it begins in its container; None: it is a file of its own."""
    member: str | None = None
    """Its name in the container."""
    container_bytes: int | None = None
    """Size of the container."""


def row_files(row: Mapping[str, Any]) -> list[RowFile]:
    """The files of a row: one, or one per view; none where it did not succeed.

    Raises:
        StorageError: the row does not say which.
    """
    if row["status"] != "ok":
        return []
    try:
        return [_row_file(row, entry) for entry in row_views(row)]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise StorageError("succeeded, but does not say which file it has") from exc


def row_views(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What says where the files of a row are: its views, or itself.

    Raises:
        ValueError: its metadata are not JSON of ours.
    """
    metadata = parse_json(row["metadata_json"]) if row["metadata_json"] else {}
    views = metadata.get("views") if isinstance(metadata, dict) else None
    if not views:
        return [row]
    if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
        raise ValueError("views are not a list of files")
    return views


def read_artifact(store: Store, row: Mapping[str, Any]) -> bytes:
    """The bytes that a row of the manifest, or a view of one, points to.

    Raises:
        StorageError: they are not there.
    """
    name, offset = row.get("file_name"), row.get("offset_bytes")
    if not isinstance(name, str):
        raise StorageError(f"{store.url}: a row that succeeded names no file (avbatch audit)")
    if offset is None:
        return store.read(name)
    if not (isinstance(offset, int) and isinstance(row.get("size_bytes"), int)):
        raise StorageError(f"{store.url_of(name)}: a row does not say which part of it is its own (avbatch audit)")
    data = store.read_range(name, offset, row["size_bytes"])
    if len(data) != row["size_bytes"]:
        raise StorageError(f"{store.url_of(name)}: ends before byte {offset + row['size_bytes']:,} (avbatch audit)")
    return data


def open_picture(row: Mapping[str, Any], read: Callable[[Mapping[str, Any]], bytes]) -> Image.Image:
    """Return the row's image, or the first frame of its video.

    Raises:
        GenerationError: the row has none, or its bytes are not readable.
        StorageError: its file is not there.
        DependencyError: a video, and nothing that decodes it is installed.
    """
    if row["status"] != "ok":
        raise GenerationError(f"{row['error_kind']}: {row['error_message']}")
    data = read(row)
    if not str(row["content_type"]).startswith("video/"):
        return decode_image(data, name=row["file_name"])
    frame = next(decode_video(data), None)
    if frame is None:
        raise GenerationError(f"{row['file_name']}: the video has no frame")
    return Image.fromarray(frame)


def _row_file(row: Mapping[str, Any], entry: Mapping[str, Any]) -> RowFile:
    offset = entry.get("offset_bytes")
    file = RowFile(
        request_id=row["request_id"],
        name=check_name(entry["file_name"]),
        size_bytes=int(entry["size_bytes"]),
        sha256=str(entry["sha256"]),
        offset_bytes=None if offset is None else int(offset),
        member=None if entry.get("member") is None else check_name(entry["member"]),
        container_bytes=None if offset is None else int(row["container_bytes"]),
    )
    end = file.size_bytes + (file.offset_bytes or 0)
    if min(file.size_bytes, file.offset_bytes or 0) < 0 or (file.container_bytes or end) < end:
        raise ValueError("not a part of its file")
    return file
