"""Counts and failure groups of a manifest, a table at a time."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from abstractvision_batch.report.outcomes import collect_outcomes
from abstractvision_batch.runs.plan_summary import PlanSummary

PLAN = PlanSummary(6, 6, 6, 6, 1, 1, 1, 1, "", (), ())
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("shard", pa.int64()),
        ("prompt", pa.string()),
        ("status", pa.string()),
        ("error_kind", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("size_bytes", pa.int64()),
        ("attempts", pa.int64()),
        ("cost_usd", pa.float64()),
    ]
)


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def failure(request_id: str, kind: str) -> dict[str, Any]:
    return {"request_id": request_id, "status": "failed", "error_kind": kind, "error_message": f"why {request_id}"}


def test_rows_of_all_tables_are_counted() -> None:
    done = {"request_id": "a", "status": "ok", "size_bytes": 10}

    outcomes = collect_outcomes([table(done, failure("b", "busy")), table(done)], PLAN)

    assert (outcomes.succeeded, outcomes.failed, outcomes.size_bytes) == (2, 1, 20)


def test_rows_that_were_not_run_are_neither_failures_nor_successes() -> None:
    left = {"status": "not_run", "error_message": "the account is empty"}

    outcomes = collect_outcomes([table({**left, "shard": 2}, {**left, "shard": 2}), table({**left, "shard": 5})], PLAN)

    assert (outcomes.not_run, outcomes.shards_done, outcomes.succeeded, outcomes.failed) == (3, 4, 0, 0)
    assert outcomes.failures == ()


def test_failures_come_by_kind_most_frequent_first_with_the_first_row_as_example() -> None:
    outcomes = collect_outcomes(
        [table(failure("a", "policy"), failure("b", "busy")), table(failure("c", "busy"))], PLAN
    )

    assert [(group.error_kind, group.rows, group.request_id) for group in outcomes.failures] == [
        ("busy", 2, "b"),
        ("policy", 1, "a"),
    ]
    assert outcomes.failures[0].error_message == "why b"


def test_a_run_without_rows_has_nothing() -> None:
    outcomes = collect_outcomes([], PLAN, missing=range(6))

    assert (outcomes.shards_done, outcomes.succeeded, outcomes.not_done, outcomes.failures) == (0, 0, 6, ())
