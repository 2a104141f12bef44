"""What two rows of two runs look like beside each other: their hashes first, their pixels where those differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.execute.row_files import FILE_COLUMNS
from abstractvision_batch.media.compare import IDENTICAL, Comparison, compare_artifacts, worst
from abstractvision_batch.run import Run

#: What of a row says which pixels it has and where they are.
ARTIFACT_COLUMNS = (*FILE_COLUMNS, "content_type", "pixel_sha256", "error_kind", "error_message")


def compare_rows(there: Run, row_there: Mapping[str, Any], here: Run, row_here: Mapping[str, Any]) -> Comparison:
    """Compare the artifacts of two rows that succeeded; of several views the worst.

    Raises:
        StorageError: an artifact cannot be read.
        OptionalDependencyMissingError: the pixels differ, and the extra `compare` is not installed.
    """
    views = list(zip(_views(row_there), _views(row_here), strict=False))
    if len(_views(row_there)) != len(_views(row_here)):
        return Comparison("different", note=f"{len(_views(row_there))} views and {len(_views(row_here))}")
    return worst(
        IDENTICAL
        if one["pixel_sha256"] == other["pixel_sha256"]
        else compare_artifacts(there.read_artifact(one), here.read_artifact(other), row_there["content_type"])
        for one, other in views
    )


def _views(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return json.loads(row["metadata_json"] or "{}").get("views") or [row]
