"""What two rows of two runs look like beside each other: their hashes first, their pixels where those differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.errors import GenerationError, StorageError
from abstractvision_batch.media.compare import IDENTICAL, Comparison, compare_artifacts, is_decodable, worst
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.row_files import FILE_COLUMNS, row_views

#: What of a row says which pixels it has and where they are.
ARTIFACT_COLUMNS = (*FILE_COLUMNS, "content_type", "pixel_sha256", "error_kind", "error_message")


def compare_rows(there: Run, row_there: Mapping[str, Any], here: Run, row_here: Mapping[str, Any]) -> Comparison:
    """Compare the artifacts of two rows that succeeded; of several views the worst.

    Raises:
        StorageError: an artifact cannot be read.
        OptionalDependencyMissingError: the pixels differ, and the extra `compare` is not installed.
    """
    views_there, views_here = _views(there, row_there), _views(here, row_here)
    views = list(zip(views_there, views_here, strict=False))
    if len(views_there) != len(views_here):
        return Comparison("different", note=f"{len(views_there)} views and {len(views_here)}")
    return worst(
        IDENTICAL
        if one.get("pixel_sha256") == other.get("pixel_sha256")
        else _compare_files(there, one, here, other, row_there["content_type"], str(row_here["request_id"]))
        for one, other in views
    )


def _compare_files(
    there: Run, one: Mapping[str, Any], here: Run, other: Mapping[str, Any], content_type: str, request_id: str
) -> Comparison:
    """Compare two files; one that cannot be decoded is a difference, which names it and its row."""
    data = (there.read_artifact(one), here.read_artifact(other))
    try:
        return compare_artifacts(*data, content_type)
    except GenerationError:
        for run, row, content in ((there, one, data[0]), (here, other, data[1])):
            if not is_decodable(content, content_type):
                where = run.store.url_of(row["file_name"])
                note = f"{where}: {len(content):,} bytes that are no readable {content_type} (request {request_id})"
                return Comparison("different", note=note)
        raise


def _views(run: Run, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    try:
        return row_views(row)
    except ValueError as exc:
        raise StorageError(f"{run.path}: {row['request_id']}: its metadata_json is damaged: {exc}") from exc
