"""The report of a finished run: a contact sheet and a README, beside the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.report.contact_sheet import MAX_COLUMNS, write_contact_sheet
from abstractvision_batch.report.outcomes import OUTCOME_COLUMNS, Outcomes, collect_outcomes
from abstractvision_batch.report.readme import write_run_readme
from abstractvision_batch.runs.columns import VARIANT
from abstractvision_batch.runs.environment_files import read_environments
from abstractvision_batch.runs.files import CONTACT_SHEET, MANIFEST, METADATA, README
from abstractvision_batch.runs.manifest import MERGE_AGAIN, iter_merged, iter_rows, list_parts, missing_shards
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.row_files import read_artifact
from abstractvision_batch.storage.parquet import open_writer
from abstractvision_batch.storage.row_groups import read_footer
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.store import Store

#: Pictures of a contact sheet: what fits a screen.
MAX_PICTURES = 48
#: What tells two requests of one matrix point apart.
KEY_COLUMNS = ("prompt_id", "sample_index")


def write_report(store: Store, record: Mapping[str, Any]) -> None:
    """Write `report/contact-sheet.png`, `metadata.parquet` of the layout `files` and `README.md`, in this order.

    They replace those of an earlier invocation; the README is the last, and its presence says that all are there.

    Raises:
        StorageError: the manifest cannot be read, or the report cannot be written.
    """
    requests, spec = record["plan"]["requests"], record["spec"]
    # Each request has a seed of its own, so a matrix over seeds makes no headings.
    drawn = (name for name, what in (spec.get("draw") or {}).items() if what is not None and name != "n")
    group_by = [name for name in (*spec["matrix"], *spec["zip"], *drawn) if name != "seed"]
    variants = [variant["name"] for variant in record.get("variants", ())][:MAX_COLUMNS]
    if variants:
        positions = _variant_positions(store, variants)
    else:
        positions = sample_positions(store, requests, record["plan"]["matrix_points"] if group_by else 1)
    shown = "" if len(positions) == requests else f" · {len(positions)} of {requests:,} shown"
    of = f"{len(record['variants'])} variants" if variants else spec["model"]
    title = f"{record['name']} · {of}{shown}"
    rows = read_rows(store, positions)
    sheet = write_contact_sheet(
        rows, lambda row: read_artifact(store, row), title=title, group_by=group_by, variants=variants
    )
    store.put(CONTACT_SHEET, sheet)
    if spec["output"].get("layout", "files") == "files":
        write_metadata(store)
    outcomes = read_outcomes(store, PlanSummary.from_json(record["plan"]))
    store.put(README, write_run_readme(record, outcomes, read_environments(store)).encode())


def write_metadata(store: Store) -> None:
    """Write the rows of the merged manifest that have a file, some at a time."""
    with scratch_folder() as folder:
        path = folder / METADATA
        writer: Any = None
        for made in iter_made_rows(store):
            writer = writer or open_writer(path, made.schema, {})
            writer.write_table(made)
        if writer is not None:
            writer.close()
            store.put(METADATA, path)


def iter_made_rows(store: Store) -> Iterator[pa.Table]:
    """Yield the rows of the merged manifest that have a file, a row group at a time: what `metadata.parquet` holds."""
    for table in iter_merged(store):
        yield table.filter(pc.field("status") == "ok").replace_schema_metadata(None)


def sample_positions(store: Store, requests: int, points: int, *, pictures: int = MAX_PICTURES) -> list[int]:
    """Which rows of the merged manifest to show: evenly spaced, and the same prompts of every matrix point."""
    if requests <= pictures or not 1 < points <= pictures:
        return _spread(requests, pictures)
    # With a heading a point, a line that is not full looks better than two lines a point.
    each = min(MAX_COLUMNS, pictures // points)
    # The plan has the points outermost, so what the first point asks for is at its start.
    chosen = read_rows(store, _spread(requests // points, each), KEY_COLUMNS)
    keys = {(row["prompt_id"], row["sample_index"]) for row in chosen.to_pylist()}
    prompt_ids = chosen["prompt_id"].unique()
    positions, start = [], 0
    for table in iter_merged(store, KEY_COLUMNS):
        for offset in np.flatnonzero(pc.is_in(table["prompt_id"], value_set=prompt_ids)):
            row = table.slice(int(offset), 1).to_pylist()[0]
            if (row["prompt_id"], row["sample_index"]) in keys:
                positions.append(start + int(offset))
        start += table.num_rows
    return positions


def _variant_positions(store: Store, variants: Sequence[str]) -> list[int]:
    """Which rows to show of variants: the same prompts and samples of each, its first picture of each."""
    own = sum(pc.sum(pc.equal(table[VARIANT], variants[0])).as_py() or 0 for table in iter_merged(store, [VARIANT]))
    # The plan has the variants outermost, so what the first asks for is at its start.
    chosen = read_rows(store, _spread(own, MAX_PICTURES // len(variants)), KEY_COLUMNS)
    keys = {tuple(row.values()) for row in chosen.to_pylist()}
    first: dict[tuple[Any, ...], int] = {}
    start = 0
    for table in iter_merged(store, (*KEY_COLUMNS, VARIANT)):
        for offset in np.flatnonzero(pc.is_in(table["prompt_id"], value_set=chosen["prompt_id"].unique())):
            *key, name = table.slice(int(offset), 1).to_pylist()[0].values()
            if tuple(key) in keys and name in variants:
                first.setdefault((*key, name), start + int(offset))
        start += table.num_rows
    return sorted(first.values())


def read_rows(store: Store, positions: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of the merged manifest, at ascending positions, holding some row groups at a time."""
    footer = read_footer(store, MANIFEST, remedy=MERGE_AGAIN)
    inside: dict[int, list[int]] = {}
    start = 0
    for group in range(footer.metadata.num_row_groups):
        end = start + footer.metadata.row_group(group).num_rows
        if found := [position - start for position in positions if start <= position < end]:
            inside[group] = found
        start = end
    groups = iter_merged(store, columns, footer=footer, groups=inside)
    tables = [table.take(pa.array(chosen)) for table, chosen in zip(groups, inside.values(), strict=True)]
    return pa.concat_tables(tables) if tables else footer.metadata.schema.to_arrow_schema().empty_table()


def read_outcomes(store: Store, plan: PlanSummary) -> Outcomes:
    """Count every row that has a result so far."""
    parts = list_parts(store)
    return collect_outcomes(iter_rows(store, OUTCOME_COLUMNS, parts, plan), plan, missing_shards(plan, parts))


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `range(count)`, evenly spaced, first and last included."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(number * (count - 1) / (wanted - 1)) for number in range(wanted)]
