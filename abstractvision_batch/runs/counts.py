"""Count a run's rows by outcome: the record that every command has which says how far a run is.

Rows are taken a table at a time, so a million of them cost no memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.runs.columns import FAILED, NOT_RUN, OK, SUPERSEDED
from abstractvision_batch.runs.manifest import (
    count_values,
    iter_rows,
    list_parts,
    missing_shards,
    rows_by_shard,
)
from abstractvision_batch.runs.plan_rows import count_shard_rows
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.storage.store import Store

#: Columns of the manifest that are counted.
COUNTED_COLUMNS = ("shard", "status", "error_kind", "error_class", "attempts", "cost_usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a run is, and what it cost: in all invocations, by what is on its storage."""

    shards: int = 0
    shards_done: int = 0
    """Shards whose rows all have a result."""
    requests: int = 0
    """Requests of the plan."""
    succeeded: int = 0
    failed: int = 0
    superseded: int = 0
    """Failed rows whose place requests of an extension took."""
    not_run: int = 0
    """Rows that something kept from being run, of shards that left a part."""
    by_error_kind: Mapping[str, int] = field(default_factory=dict)
    by_error_class: Mapping[str, int] = field(default_factory=dict)
    attempts: int = 0
    """How often the backend was asked, for all rows together."""
    cost_usd: float | None = None
    """Of those attempts; None where nothing says what a request costs."""
    unpriced_attempts: int = 0
    """Attempts of rows without a cost."""

    also_json: ClassVar[tuple[str, ...]] = ("not_done",)

    @property
    def not_done(self) -> int:
        """Requests without a result."""
        return max(0, self.requests - self.succeeded - self.failed - self.superseded)

    def values(self) -> dict[str, Any]:
        """Return the counts by their names, for a record that says more."""
        return {one.name: getattr(self, one.name) for one in fields(Counts)}


class RowCounter:
    """Adds up rows that have at least the `COUNTED_COLUMNS`."""

    def __init__(self) -> None:
        self.unfinished: Counter[int] = Counter()
        """Rows that were not run, by shard."""
        self._statuses: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()
        self._attempts = self._unpriced = 0
        self._costs: list[float] = []

    def add(self, rows: pa.Table) -> None:
        """Count these rows, too."""
        self._statuses.update(count_values(rows["status"]))
        self.unfinished.update(rows_by_shard(rows, NOT_RUN))
        failed = rows.filter(pc.field("status") == FAILED)
        self._kinds.update(count_values(failed["error_kind"]))
        self._classes.update(count_values(failed["error_class"]))
        self._attempts += pc.sum(rows["attempts"]).as_py() or 0
        self._unpriced += pc.sum(rows.filter(pc.field("cost_usd").is_null())["attempts"]).as_py() or 0
        if (cost_usd := pc.sum(rows["cost_usd"]).as_py()) is not None:
            self._costs.append(cost_usd)

    def counts(self, plan: PlanSummary, missing: Collection[int]) -> Counts:
        """Return what was counted of a run of this plan, of which the `missing` shards left no part."""
        return Counts(
            shards=plan.shards,
            shards_done=plan.shards - len(missing) - len(self.unfinished),
            requests=plan.requests,
            succeeded=self._statuses[OK],
            failed=self._statuses[FAILED],
            superseded=self._statuses[SUPERSEDED],
            not_run=self._statuses[NOT_RUN],
            by_error_kind=dict(sorted(self._kinds.items())),
            by_error_class=dict(sorted(self._classes.items())),
            attempts=self._attempts,
            cost_usd=math.fsum(self._costs) if self._costs else None,
            unpriced_attempts=self._unpriced,
        )


def count_rows(store: Store, plan: PlanSummary, parts: dict[int, list[int]] | None = None) -> Counts:
    """Count every row that has a result; `parts` are those that `list_parts` found."""
    parts = list_parts(store) if parts is None else parts
    counter = RowCounter()
    for table in iter_rows(store, COUNTED_COLUMNS, parts, plan):
        counter.add(table)
    return counter.counts(plan, missing_shards(plan, parts))


def count_variants(store: Store, plan: PlanSummary) -> dict[str | None, Counts]:
    """Count every row that has a result, by the variant that it is of."""
    parts = list_parts(store)
    missing = set(missing_shards(plan, parts))
    by_variant = plan.by_variant(range(plan.shards))
    variant_of = {shard: name for name, shards in by_variant.items() for shard in shards}
    counters = {name: RowCounter() for name in by_variant}
    for table in iter_rows(store, COUNTED_COLUMNS, parts, plan):
        for name in {variant_of[shard] for shard in table["shard"].unique().to_pylist()}:
            counters[name].add(table.filter(pc.field("shard").isin(by_variant[name])))
    found = {}
    for name, shards in by_variant.items():
        own = replace(plan, shards=len(shards), requests=sum(count_shard_rows(store.open, plan, shards)))
        found[name] = counters[name].counts(own, missing.intersection(shards))
    return found
