"""What became of a run's rows: counts, bytes, and failures grouped by kind and class with an example each.

Takes manifest rows a table at a time, so a million of them cost no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.runs.columns import FAILED
from abstractvision_batch.runs.counts import COUNTED_COLUMNS, Counts, RowCounter
from abstractvision_batch.runs.plan_summary import PlanSummary

#: Columns of the manifest that `collect_outcomes` reads.
OUTCOME_COLUMNS = (*COUNTED_COLUMNS, "request_id", "prompt", "error_message", "size_bytes")


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed rows of one `error_kind` and `error_class`, and the first of them."""

    error_kind: str
    error_class: str
    rows: int
    request_id: str
    prompt: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes(Counts):
    """Counts of a run's rows so far, with examples of what failed."""

    size_bytes: int
    """Of the artifacts."""
    failures: tuple[FailureGroup, ...]
    """The largest group first."""


def collect_outcomes(tables: Iterable[pa.Table], plan: PlanSummary, missing: Collection[int] = ()) -> Outcomes:
    """Add up manifest rows that have at least the `OUTCOME_COLUMNS`; `missing` shards of the plan left no part."""
    counter = RowCounter()
    size_bytes = 0
    groups: dict[tuple[str, str], FailureGroup] = {}
    for table in tables:
        counter.add(table)
        size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
        bad = table.filter(pc.field("status") == FAILED)
        for row in bad.select(["request_id", "prompt", "error_kind", "error_class", "error_message"]).to_pylist():
            key = (row["error_kind"] or "unknown", row["error_class"] or "unknown")
            known = groups.get(key)
            groups[key] = FailureGroup(
                error_kind=key[0],
                error_class=key[1],
                rows=1 if known is None else known.rows + 1,
                request_id=row["request_id"] if known is None else known.request_id,
                prompt=(row["prompt"] or "") if known is None else known.prompt,
                error_message=(row["error_message"] or "") if known is None else known.error_message,
            )
    failures = sorted(groups.values(), key=lambda group: (-group.rows, group.error_kind, group.error_class))
    return Outcomes(**counter.counts(plan, missing).values(), size_bytes=size_bytes, failures=tuple(failures))
