"""Names of what lies in a run's `artifacts/`.

A name holds a hash of the content: a late duplicate of an attempt cannot change what a committed row points to, and a
deterministic backend's repeat writes the same bytes under the same name.
"""

from __future__ import annotations

import re

from abstractvision_batch.runs.columns import REQUEST_ID_DIGITS
from abstractvision_batch.runs.files import ARTIFACTS

#: Hex digits of the content's SHA-256 in a name.
SHA_DIGITS = 12
_CONTAINER_NAME = re.compile(rf"([0-9]{{5,9}})-[0-9a-f]{{{SHA_DIGITS}}}\.[a-z]+")
_FILE_NAME = re.compile(rf"[0-9a-f]{{{REQUEST_ID_DIGITS}}}(-v[0-9]{{1,4}})?-[0-9a-f]{{{SHA_DIGITS}}}\.[a-z0-9]{{1,8}}")
_FOLDER_NAME = re.compile(r"[0-9]{5,9}")


def artifact_folder(shard: int) -> str:
    """Folder of the files of one shard."""
    return f"{ARTIFACTS}/{shard:05d}"


def artifact_name(shard: int, request_id: str, view: int, sha256: str, extension: str) -> str:
    """Name of one file; `view` is 0 but for further views of a request."""
    label = request_id if view == 0 else f"{request_id}-v{view}"
    return f"{artifact_folder(shard)}/{label}-{sha256[:SHA_DIGITS]}{extension}"


def container_name(shard: int, sha256: str, extension: str) -> str:
    """Name of the container of what one attempt at a shard generated."""
    return f"{artifact_folder(shard)}-{sha256[:SHA_DIGITS]}{extension}"


def shard_of_container(file_name: str) -> int | None:
    """The shard of a file directly in `artifacts/`; None if it is no container."""
    match = _CONTAINER_NAME.fullmatch(file_name)
    return int(match[1]) if match else None


def is_shard_folder(folder_name: str) -> bool:
    """Whether a folder in `artifacts/` has the name of a shard's."""
    return _FOLDER_NAME.fullmatch(folder_name) is not None


def is_artifact(file_name: str) -> bool:
    """Whether a file in a shard's folder has a name that we give: others are not ours to judge or to remove."""
    return _FILE_NAME.fullmatch(file_name) is not None


def sha_of_container(name: str) -> str:
    """The digits of the content's hash in a container's name."""
    return name.rpartition("-")[2].partition(".")[0]


def member_name(request_id: str, view: int, extension: str) -> str:
    """Name of one file in its container: WebDataset takes what is before the first dot for the sample's key."""
    return f"{request_id}{extension}" if view == 0 else f"{request_id}.v{view}{extension}"
