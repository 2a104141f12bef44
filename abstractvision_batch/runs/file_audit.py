"""Whether the content of a stored file is what the rows that name it say: a picture, or a container of many.

A container is read once, from start to end: each member has its row's hash, and the whole has that of its name, which
also covers what lies between the members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from abstractvision_batch.errors import StorageError
from abstractvision_batch.runs.artifact_names import sha_of_container
from abstractvision_batch.runs.row_files import RowFile
from abstractvision_batch.storage.failures import is_lost
from abstractvision_batch.storage.store import Store

#: Bytes between members that are read at a time.
BLOCK_BYTES = 8 << 20


def find_damage(store: Store, name: str, files: Sequence[RowFile]) -> list[RowFile] | None:
    """Which of the files that lie in `name` are not what was written.

    Returns:
        None where all is well; empty where only what lies between the members of a container is damaged.

    Raises:
        StorageError: the store is down, or refuses; which says nothing of the file.
    """
    try:
        if files[0].offset_bytes is None:
            data = store.read(name)
            return [file for file in files if hashlib.sha256(data).hexdigest() != file.sha256] or None
        return _damage_of_container(store, name, files)
    except StorageError as exc:
        if not is_lost(exc):  # a store that is down, or refuses, has lost nothing
            raise
        return list(files)


def _damage_of_container(store: Store, name: str, files: Sequence[RowFile]) -> list[RowFile] | None:
    whole, damaged = hashlib.sha256(), []
    end = 0
    with store.open(name) as stream:
        for file in sorted(files, key=lambda file: file.offset_bytes or 0):
            start = file.offset_bytes or 0
            if start < end:  # members never overlap: these rows are not of this container
                return list(files)
            while end < start and (block := stream.read(min(BLOCK_BYTES, start - end))):
                whole.update(block)
                end += len(block)
            data = stream.read(file.size_bytes)
            whole.update(data)
            end += len(data)
            if hashlib.sha256(data).hexdigest() != file.sha256:
                damaged.append(file)
        while block := stream.read(BLOCK_BYTES):
            whole.update(block)
    return damaged if damaged or not whole.hexdigest().startswith(sha_of_container(name)) else None
