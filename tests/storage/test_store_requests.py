"""How many requests commands send to an object store, where one is tens of milliseconds: by shard, and at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.report.run_report import read_outcomes
from abstractvision_batch.runs.counts import count_rows
from abstractvision_batch.runs.manifest import merge_manifest
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.run import run
from benchmarks.large_run import describe_job, write_parts, write_prompts
from tests.support.counted_store import CountedFileSystem

SHARDS = 200


def job(folder: Path, **execution: Any) -> dict[str, Any]:
    path = f"counted://{folder}/run"
    source = {"source": str(folder / "prompts.csv")}
    return describe_job(path, execution={"shard_size": 2, "batch_size": 1, **execution}) | {"prompts": source}


@pytest.fixture
def started(tmp_path: Path) -> Run:
    """A run of 200 shards in 4 plan files, none of them done."""
    write_prompts(tmp_path / "prompts.csv", SHARDS * 2)
    run(job(tmp_path, budget={"wall_s": 1e-9}))
    found = open_run(f"counted://{tmp_path}/run")
    assert (found.plan.shards, len(found.plan.files)) == (SHARDS, 4)
    CountedFileSystem.requests.clear()
    return found


def sent() -> Counter[str]:
    """Requests since the last look."""
    requests = Counter(CountedFileSystem.requests)
    CountedFileSystem.requests.clear()
    return requests


def test_a_start_reads_no_part_and_looks_for_no_single_file_of_the_plan(started: Run, tmp_path: Path) -> None:
    write_parts(tmp_path / "run", started.plan, range(SHARDS - 1))

    run(job(tmp_path, budget={"wall_s": 1e-9}))

    # Stopped by its budget, it counts what is there for its result: that is one request for each part.
    requests = sent()
    assert requests["GET"] <= SHARDS + 5 * len(started.plan.files)
    assert requests["HEAD"] + requests["LIST"] <= 30 + 2 * len(started.plan.files)


def test_status_merge_and_counting_read_each_part_in_one_request(started: Run, tmp_path: Path) -> None:
    write_parts(tmp_path / "run", started.plan, range(SHARDS))

    assert read_outcomes(started.store, started.plan).succeeded == 2 * SHARDS
    assert (requests := sent())["GET"] == SHARDS
    assert requests.total() <= SHARDS + 5

    merge_manifest(started.store, started.plan)
    assert (requests := sent())["GET"] == SHARDS
    assert requests.total() <= SHARDS + 5

    assert count_rows(started.store, started.plan).succeeded == 2 * SHARDS
    assert sent().total() <= 10


def test_an_audit_reads_each_part_twice_and_each_plan_file_a_few_times(started: Run, tmp_path: Path) -> None:
    write_parts(tmp_path / "run", started.plan, range(SHARDS))
    merge_manifest(started.store, started.plan)
    sent()

    assert audit(started.url, fast=True).findings == ()

    requests = sent()
    assert requests["GET"] <= 2 * SHARDS + 10 * len(started.plan.files)
    assert requests.total() <= 2 * SHARDS + 15 * len(started.plan.files)
