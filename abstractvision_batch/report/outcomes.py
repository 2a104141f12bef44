"""What became of a run's rows: counts, bytes, and failures grouped by kind and class with an example each.

Takes manifest rows a table at a time, so a million of them cost no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: Columns of the manifest that `collect_outcomes` reads.
OUTCOME_COLUMNS = (
    "request_id",
    "prompt",
    "status",
    "error_kind",
    "error_class",
    "error_message",
    "size_bytes",
    "attempts",
    "cost_usd",
)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed rows of one `error_kind` and `error_class`, and the first of them."""

    error_kind: str
    error_class: str
    rows: int
    request_id: str
    prompt: str
    error_message: str


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Counts of a run's rows so far. `failures` has the largest group first."""

    succeeded: int
    failed: int
    size_bytes: int
    attempts: int
    """Tries of all rows together."""
    cost_usd: float | None
    """Of those tries; None where nothing says what a request costs."""
    failures: tuple[FailureGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "failures": [asdict(group) for group in self.failures]}


def collect_outcomes(tables: Iterable[pa.Table]) -> Outcomes:
    """Add up manifest rows that have at least the `OUTCOME_COLUMNS`."""
    succeeded = failed = size_bytes = attempts = 0
    costs: list[float] = []
    groups: dict[tuple[str, str], FailureGroup] = {}
    for table in tables:
        bad = table.filter(pc.not_equal(table["status"], "ok"))
        succeeded += table.num_rows - bad.num_rows
        failed += bad.num_rows
        size_bytes += pc.sum(table["size_bytes"]).as_py() or 0
        attempts += pc.sum(table["attempts"]).as_py() or 0
        if (cost_usd := pc.sum(table["cost_usd"]).as_py()) is not None:
            costs.append(cost_usd)
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
    return Outcomes(succeeded, failed, size_bytes, attempts, math.fsum(costs) if costs else None, tuple(failures))
