"""SHA-256 of files, kept in the user's cache folder: weights are gigabytes, and every run and worker asks for them.

A kept hash belongs to a path with its inode, size and times of change, so a file that was replaced or edited is hashed
anew. Each is a small file that appears by a rename, so any number of processes may write them at once. Without a
folder to write to, files are hashed each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from abstractvision_batch.storage.regular import open_regular

#: Smaller files are hashed in less time than it takes to look their hash up.
KEPT_FROM_BYTES = 32 << 20
#: A file changed later than this, in seconds, may change again within one tick of its clock: its hash is not kept.
SETTLED_S = 2.0
#: Hashing releases the GIL; more would only wait for the disk.
_THREADS = 4
_BLOCK_BYTES = 1 << 20


def hash_files(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file, 64 hex digits.

    Raises:
        OSError: one cannot be read.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="file-hashes") as pool:
        return list(pool.map(hash_file, paths))


def hash_file(path: Path) -> str:
    """SHA-256 of one file, 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    path = path.resolve()
    state = _state(path)
    if state in known_hashes:
        return known_hashes[state]
    size, settled = path.stat().st_size, _is_settled(path)
    entry = _entry(state) if size >= KEPT_FROM_BYTES else None
    digest = _read(entry)
    if digest is None:
        with open_regular(path) as stream:
            digest = hash_stream(stream)
        if not settled or _state(path) != state:
            return digest
        _keep(entry, digest)
    known_hashes[state] = digest
    return digest


def hash_stream(stream: BinaryIO) -> str:
    """SHA-256 of what is left to read, 64 hex digits."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


#: Hashes that this process knows, of files of any size.
known_hashes: dict[str, str] = {}


def _state(path: Path) -> str:
    """What changes when the file is replaced or edited."""
    status = path.stat()
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return "\0".join([str(path), *map(str, numbers)])


def _is_settled(path: Path) -> bool:
    status = path.stat()
    return time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S


def _entry(state: str) -> Path | None:
    """Where the hash of a file in this state is kept; None where there is no cache folder."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return root / "avbatch" / "file-hashes" / hashlib.sha256(state.encode(errors="surrogateescape")).hexdigest()


def _read(entry: Path | None) -> str | None:
    if entry is None:
        return None
    try:
        text = entry.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if len(text) == 64 else None  # a power cut may leave an empty file


def _keep(entry: Path | None, digest: str) -> None:
    if entry is None:
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(digest)
            Path(name).replace(entry)
        finally:
            Path(name).unlink(missing_ok=True)
