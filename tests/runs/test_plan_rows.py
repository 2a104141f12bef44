"""A plan is read only if it is the one that was recorded, and only if its rows could be of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import StorageError
from abstractvision_batch.plan.existing import ExistingPlan
from abstractvision_batch.runs import plan_rows as read
from abstractvision_batch.runs.plan_rows import count_shard_rows, read_ids, read_shard
from abstractvision_batch.runs.plan_summary import PlanSummary
from tests.support.planning import BuiltPlan, Planner


def opener(plan: BuiltPlan) -> Callable[[str], BinaryIO]:
    return lambda name: (plan.folder / name).open("rb")


def _rewritten(plan: BuiltPlan, change: dict[str, Any], *, rehash: bool = True) -> PlanSummary:
    """The plan's summary after columns of its only file were replaced; with its new hash, as a forger would give it."""
    path: Path = plan.folder / "plan.parquet"
    table = pq.read_table(path)
    for name, values in change.items():
        position = table.schema.get_field_index(name)
        table = table.remove_column(position) if values is None else table.set_column(position, name, pa.array(values))
    pq.write_table(table, path)
    (file,) = plan.summary.files
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if rehash else file.sha256
    summary: PlanSummary = replace(plan.summary, files=(replace(file, sha256=sha256, size_bytes=path.stat().st_size),))
    return summary


@pytest.mark.parametrize("whole_bytes", [1 << 26, 0])
def test_rows_of_a_file_that_is_not_the_recorded_one_are_never_used(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(read, "READ_WHOLE_BYTES", whole_bytes)
    plan = planner.build(["a", "b"])
    summary = _rewritten(plan, {"prompt": ["x", "y"]}, rehash=False)

    with pytest.raises(StorageError, match="another sha256"):
        read_shard(opener(plan), summary, 0)
    with pytest.raises(StorageError, match="another sha256"):
        list(read_ids(opener(plan), summary.files[0]))


def test_a_large_file_is_hashed_once_and_then_read_by_parts(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "READ_WHOLE_BYTES", 0)
    plan = planner.build([f"p{i}" for i in range(6)], execution={"batch_size": 2, "shard_size": 2})
    hashed: list[str] = []

    def hash_file(open_file: Callable[[str], BinaryIO], name: str) -> str:
        hashed.append(name)
        return plan.summary.files[0].sha256

    monkeypatch.setattr(read, "hash_file", hash_file)
    open_file = opener(plan)

    prompts = [read_shard(open_file, plan.summary, shard)["prompt"].to_pylist() for shard in range(3)]

    assert (prompts, hashed) == ([["p0", "p1"], ["p2", "p3"], ["p4", "p5"]], ["plan.parquet"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"request_id": ["../../../../pwned", "a" * 26]}, "hex digits"),
        ({"request_id": ["A" * 26, "a" * 26]}, "hex digits"),
        ({"request_id": ["a" * 26 + "\n", "a" * 26]}, "hex digits"),
        ({"request_id": [1, 2]}, "column request_id is int64"),
        ({"request_id": [None, "a" * 26]}, "without"),
        ({"request_id": None}, "no column request_id"),
        ({"shard": [0, 1]}, "rows of another"),
        ({"seed": ["1", "2"]}, "column seed is string"),
        ({"index": [None, 1]}, "without"),
        ({"task": [["a"], ["b"]]}, "column task is list"),
    ],
)
def test_rows_that_no_plan_of_ours_has_are_refused_though_their_hash_is_right(
    planner: Planner, change: dict[str, Any], said: str
) -> None:
    plan = planner.build(["a", "b"])
    summary = _rewritten(plan, change)

    with pytest.raises(StorageError, match=said):
        read_shard(opener(plan), summary, 0)
    if "request_id" in change:
        with pytest.raises(StorageError, match=r"plan\.parquet"):
            ExistingPlan(opener(plan), summary)


def test_a_plan_of_other_shards_than_recorded_is_refused_when_they_are_counted(planner: Planner) -> None:
    plan = planner.build(["a", "b"])
    (file,) = plan.summary.files
    summary = replace(plan.summary, shards=2, files=(replace(file, shards=2),))

    with pytest.raises(StorageError, match="1 row groups in place of 2"):
        list(count_shard_rows(opener(plan), summary, [0, 1]))


def test_a_plan_is_known_by_its_requests_where_it_has_as_many_as_recorded(planner: Planner) -> None:
    plan = planner.build(["a fox", "a cat", "a dog"])

    assert ExistingPlan(opener(plan), plan.summary).missing == 3
    for requests in (2, 4):
        with pytest.raises(StorageError, match=f"the plan has 3 rows for {requests} requests"):
            ExistingPlan(opener(plan), replace(plan.summary, requests=requests))
