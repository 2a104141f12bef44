"""The report of a finished run: a contact sheet and a README, beside the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.report.contact_sheet import MAX_COLUMNS, write_contact_sheet
from abstractvision_batch.report.outcomes import OUTCOME_COLUMNS, Outcomes, collect_outcomes
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
        StorageError: the manifest cannot be read, or the report cannot be written.
    """
    plan, spec = record["plan"], record["spec"]
    positions = sample_positions(plan["requests"], plan["matrix_points"])
    shown = "" if len(positions) == plan["requests"] else f" · {len(positions)} of {plan['requests']:,} shown"
    sheet = write_contact_sheet(
        read_rows(store, positions),
        store.read,
        title=f"{record['name']} · {spec['model']}{shown}",
        # Each request has a seed of its own, so a matrix over seeds is no heading.
        group_by=[name for name in (*spec["matrix"], *spec["zip"]) if name != "seed"],
    )
    store.put(CONTACT_SHEET, sheet)
    store.put(README, write_run_readme(record, read_outcomes(store)).encode())


def sample_positions(requests: int, matrix_points: int, *, pictures: int = MAX_PICTURES) -> list[int]:
    """Which rows of a manifest to show: evenly spaced, and the same prompts of every matrix point.

    The plan has the matrix points outermost, so each is a block of equal length.
    """
    if matrix_points > pictures or requests % matrix_points:
        return _spread(requests, pictures)
    block = requests // matrix_points
    # With headings, a line that is not full is better than two lines a heading.
    each = pictures if matrix_points == 1 else min(MAX_COLUMNS, pictures // matrix_points)
    return [point * block + offset for point in range(matrix_points) for offset in _spread(block, each)]


def read_rows(store: Store, positions: list[int]) -> pa.Table:
    """Rows of the merged manifest, holding one row group at a time."""
    with store.open(MANIFEST) as stream:
        file = pq.ParquetFile(stream)
        tables, start = [file.schema_arrow.empty_table()], 0
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = [position - start for position in positions if start <= position < end]
            if inside:
                tables.append(file.read_row_group(group).take(pa.array(inside)))
            start = end
        return pa.concat_tables(tables)


def read_outcomes(store: Store) -> Outcomes:
    """Counts over the merged manifest."""
    with store.open(MANIFEST) as stream:
        return collect_outcomes(_iter_tables(pq.ParquetFile(stream)))


def _iter_tables(file: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in file.iter_batches(columns=list(OUTCOME_COLUMNS)):
        yield pa.Table.from_batches([batch])


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `range(count)`, evenly spaced, first and last included."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(number * (count - 1) / (wanted - 1)) for number in range(wanted)]
