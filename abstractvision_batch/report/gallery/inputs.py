"""Previews of input images and masks, which usually lie outside of the run: what a page shows beside an edit.

A preview is of the picture as the backend saw it, brought to the size that was asked for, so that a mask lies over the
result. It is named by the file's hash and that size, so each is stored once.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.errors import GenerationError, StorageError
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.runs.files import GALLERY
from abstractvision_batch.storage.store import Store

logger = logging.getLogger(__name__)

INPUTS = f"{GALLERY}/inputs"
#: Columns with the SHA-256 of a row's input pictures, and the field of the request that has the picture.
DIGESTS = {"input_sha256": "image", "mask_sha256": "mask"}
#: Longest side, in pixels.
SIDE = 512
_QUALITY = 80


def preview_name(row: Mapping[str, Any], digest: str) -> str | None:
    """Return the name of a row's preview in the folder of previews; None where it has no such picture.

    Args:
        row: Of the plan or the manifest.
        digest: One of DIGESTS.
    """
    sha256 = row.get(digest)
    return sha256 and f"{sha256[:20]}-{row['width'] or 0}x{row['height'] or 0}.webp"


class InputPreviews:
    """Stores the previews of a worker's requests, each once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: set[str] = set()
        self._lock = threading.Lock()

    def keep(self, row: Mapping[str, Any], digest: str, data: bytes) -> None:
        """Store the preview of a row's picture; one that cannot be is left out with a warning."""
        name = preview_name(row, digest)
        with self._lock:
            if name is None or name in self._kept:
                return
            self._kept.add(name)
        try:
            picture = decode_image(data, name=name)
            picture.thumbnail((SIDE, SIDE), reducing_gap=2.0)
            out = io.BytesIO()
            picture.save(out, "WEBP", quality=_QUALITY, method=2)
            self._store.put(f"{INPUTS}/{name}", out.getvalue())
        except (GenerationError, StorageError) as error:
            logger.warning("%s: no preview of the input: %s", name, error)
