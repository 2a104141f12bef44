"""Names inside a store: relative, with ``/``, and never out of it.

Names come from `run.json`, plans and manifests too, which a stranger may have written, so every store checks each name
here before it joins it to its root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from abstractvision_batch.errors import StorageError

#: What a write, or a probe of the store, has in hand. Readers of datasets skip names that start with a dot.
TEMPORARY_PREFIX = ".tmp-"
PROBE_PREFIX = ".probe-"
#: Longer ones are of no file system and of no object store.
MAX_NAME_LENGTH = 1024
#: Control characters and the separator of Windows.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file directly in a folder of a store."""

    name: str
    """Without the folder."""
    size_bytes: int
    modified_at: datetime | None
    """In UTC; None where the store does not say."""


def check_name(name: object) -> str:
    """Return the name of a file in a store.

    Raises:
        StorageError: it is not one: absolute, empty, or with ``..`` and the like in it.
    """
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and all(map(is_plain, name.split("/"))):
        return name
    shown = repr(name)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    raise StorageError(f"{shown}: not a name inside a run (relative, with / and without .., . and \\)")


def is_temporary(segment: str) -> bool:
    """Whether a file is what a crash left of a write or of a probe."""
    return segment.startswith((TEMPORARY_PREFIX, PROBE_PREFIX))


def is_plain(segment: str) -> bool:
    """Whether text is one segment of a name."""
    return segment not in ("", ".", "..") and _FORBIDDEN.search(segment) is None
