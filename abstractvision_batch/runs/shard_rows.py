"""Which rows of a shard to run: all of them, or those that failed, or were not run, as the shard's next retry round.

Parts never change, so driver and workers, which each ask for themselves, get the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.runs.columns import FAILED, RowResult, fit_columns, manifest_schema
from abstractvision_batch.runs.manifest import mark_superseded, read_shard_rows
from abstractvision_batch.runs.plan_rows import read_shard, superseded_ids
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.row_filter import filter_rows
from abstractvision_batch.storage.store import Store


@dataclass(frozen=True, slots=True)
class Retry:
    """Rows of shards that left parts which are to be run."""

    parts: Mapping[int, tuple[int, ...]]
    """Retry rounds that left a part when this one began, by shard."""
    where: str | None = None
    """A condition that the rows meet too (`row_filter`)."""
    status: str = FAILED
    """Of the rows."""


#: Batches of the plan by shard.
Batches = Mapping[int, frozenset[int]]


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Rows of one shard that one retry round runs."""

    table: pa.Table
    """Rows of the plan."""
    retry_round: int = 0
    attempts: Mapping[int, int] = field(default_factory=dict)
    """Attempts at each request in earlier rounds, by plan index."""
    costs_usd: Mapping[int, float | None] = field(default_factory=dict)
    """Cost of those attempts, where they have one."""
    first: int = 0
    """Plan index of the shard's first request."""
    count: int = 0
    """Requests of the shard."""
    batches: frozenset[int] | None = None
    """The batches that are asked for; None: all of them. The other rows are not run."""

    @property
    def chosen(self) -> pa.Table:
        """The rows that are asked for."""
        return self.table if self.batches is None else self.table.filter(pc.field("batch_id").isin(list(self.batches)))

    def add_earlier(self, index: int, result: RowResult) -> RowResult:
        """Return a result of this round with the request's earlier attempts and costs added to its own."""
        costs = [cost for cost in (self.costs_usd.get(index), result.cost_usd) if cost is not None]
        attempts = self.attempts.get(index, 0) + result.attempts
        return replace(result, retry_round=self.retry_round, attempts=attempts, cost_usd=sum(costs) if costs else None)


def rows_to_run(
    store: Store, plan: PlanSummary, shard: int, retry: Retry | None, only: Batches | None = None
) -> ShardRows:
    """A shard's rows that are to be run; with `only`, those of its batches alone.

    Raises:
        SpecError: the retry's condition is wrong.
        StorageError: the plan or a part cannot be read.
    """
    planned = read_shard(store.open, plan, shard)
    first, count = planned["index"][0].as_py(), planned.num_rows
    batches = None if only is None else only.get(shard, frozenset())
    if retry is None:
        return ShardRows(planned, first=first, count=count, batches=batches)
    rounds = retry.parts[shard]
    rows = fit_columns(read_shard_rows(store, shard, rounds), manifest_schema(plan.schema))
    rows = mark_superseded(rows, superseded_ids(store.open, plan))
    failed = rows.filter(pc.field("status") == retry.status)
    if retry.where is not None:
        failed = filter_rows(failed, retry.where)
    attempts = dict(zip(failed["index"].to_pylist(), failed["attempts"].to_pylist(), strict=True))
    costs_usd = dict(zip(failed["index"].to_pylist(), failed["cost_usd"].to_pylist(), strict=True))
    wanted = planned.filter(pc.field("index").isin(list(attempts)))
    return ShardRows(wanted, rounds[-1] + 1, attempts, costs_usd, first=first, count=count, batches=batches)
