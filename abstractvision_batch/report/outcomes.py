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

from abstractvision_batch.runs.columns import FAILED, NOT_RUN, OK, SUPERSEDED

#: Columns of the manifest that `collect_outcomes` reads.
OUTCOME_COLUMNS = (
    "request_id",
    "shard",
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
    not_run: int
    """Rows that something kept from being run: the next run does them."""
    superseded: int
    """Failed rows whose place requests of an extension took."""
    unfinished_shards: int
    """Shards with such rows."""
    size_bytes: int
    attempts: int
    """Tries of all rows together."""
    cost_usd: float | None
    """Of those tries; None where nothing says what a request costs."""
    failures: tuple[FailureGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        plain = {**asdict(self), "failures": [asdict(group) for group in self.failures]}
        del plain["unfinished_shards"]
        return plain


def collect_outcomes(tables: Iterable[pa.Table]) -> Outcomes:
    """Add up manifest rows that have at least the `OUTCOME_COLUMNS`."""
    succeeded = failed = not_run = superseded = size_bytes = attempts = 0
    unfinished: set[int] = set()
    costs: list[float] = []
    groups: dict[tuple[str, str], FailureGroup] = {}
    for table in tables:
        bad = table.filter(pc.field("status") == FAILED)
        left = table.filter(pc.field("status") == NOT_RUN)
        succeeded += pc.sum(pc.equal(table["status"], OK)).as_py() or 0
        failed += bad.num_rows
        not_run += left.num_rows
        superseded += pc.sum(pc.equal(table["status"], SUPERSEDED)).as_py() or 0
        unfinished.update(left["shard"].to_pylist())
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
    return Outcomes(
        succeeded=succeeded,
        failed=failed,
        not_run=not_run,
        superseded=superseded,
        unfinished_shards=len(unfinished),
        size_bytes=size_bytes,
        attempts=attempts,
        cost_usd=math.fsum(costs) if costs else None,
        failures=tuple(failures),
    )
