"""The report of a finished run: a contact sheet and a README, beside the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.report.contact_sheet import write_contact_sheet
from abstractvision_batch.report.readme import write_run_readme
from abstractvision_batch.storage.store import Store

MANIFEST = "manifest.parquet"
CONTACT_SHEET = "report/contact-sheet.png"
README = "README.md"
#: Pictures of a contact sheet: what fits a screen.
MAX_PICTURES = 48


def write_report(store: Store, record: Mapping[str, Any]) -> None:
    """Write `README.md` and `report/contact-sheet.png`, replacing those of an earlier invocation.

    Raises:
        StorageError: the manifest or an artifact cannot be read, or the report cannot be written.
    """
    sample = read_sample(store, MAX_PICTURES)
    store.put(CONTACT_SHEET, write_contact_sheet(sample, store.read))
    store.put(README, write_run_readme(sample, record).encode())


def read_sample(store: Store, rows: int) -> pa.Table:
    """Evenly spaced rows of the merged manifest, read one row group at a time."""
    with store.open(MANIFEST) as stream:
        file = pq.ParquetFile(stream)
        total = file.metadata.num_rows
        wanted = np.unique(np.linspace(0, max(0, total - 1), min(rows, total)).astype(np.int64))
        tables, start = [], 0
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= start) & (wanted < end)]
            if inside.size:
                tables.append(file.read_row_group(group).take(pa.array(inside - start)))
            start = end
        return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table()
