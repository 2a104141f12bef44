"""`avbatch gallery`: write the page of a run that is there, whole or not, of this version or an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import SpecError
from abstractvision_batch.report.gallery.writer import MAX_ROWS, write_gallery
from abstractvision_batch.runs.files import GALLERY_PAGE
from abstractvision_batch.runs.opened import Run, open_run


@dataclass(frozen=True, slots=True)
class Gallery:
    """A page that was written."""

    path: str
    """What a browser opens."""
    rows: int
    """Requests that have a result and so stand on it."""
    thumbnails: int
    """Thumbnails that were made now; the others were there."""


def gallery(run: str | Path | Run, storage_options: Mapping[str, Any] | None = None) -> Gallery:
    """Write `gallery/index.html` into a run's folder, with the thumbnails that are not there yet.

    Args:
        run: Folder or URL of the run, or the run, opened; it may still go on.
        storage_options: fsspec options of its store.

    Raises:
        SpecError: there is no run, or it has more rows than a page can show.
        StorageError: it cannot be read, or the page cannot be written.
    """
    opened = open_run(run, storage_options)
    written = write_gallery(opened.store, opened.record)
    if written is None:
        raise SpecError(
            f"{opened.url}: has {opened.plan.requests:,} requests, and a page shows at most {MAX_ROWS:,} "
            "(look at manifest.parquet, or at a run of fewer)"
        )
    return Gallery(opened.store.url_of(GALLERY_PAGE), written.rows, written.thumbnails)
