"""The layout `files`: ``artifacts/00003/<id>-<sha>.png``, a file for each picture, stored as soon as it is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import pyarrow as pa

from abstractvision_batch.runs.artifact_names import artifact_folder
from abstractvision_batch.runs.layouts.layout import Pieces
from abstractvision_batch.runs.results import RowResult
from abstractvision_batch.storage.store import Store


class FilesLayout:
    """Pieces are where they belong already."""

    def keep(self, store: Store) -> AbstractContextManager[Pieces]:
        return nullcontext(store)

    def place(
        self, store: Store, pieces: Pieces, rows: pa.Table, results: Mapping[int, RowResult], *, shard: int
    ) -> Mapping[int, RowResult]:
        store.sync_folder(artifact_folder(shard))
        return results

    def clean_up(self, store: Store, results: Mapping[int, RowResult]) -> None:
        """Nothing to do."""
