"""`--only`: single requests, with the batches that they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.cli.command import read_names
from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.columns import NOT_RUN
from abstractvision_batch.runs.manifest import iter_rows
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.plan import plan
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob


def _made(path: str | Path) -> list[str]:
    tables = iter_rows(open_run(path).store, ["request_id", "status"])
    return [row["request_id"] for table in tables for row in table.to_pylist() if row["status"] != NOT_RUN]


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


def _check_that_the_rest_follows(make_job: MakeJob, tmp_path: Path, execution: dict[str, Any]) -> None:
    job = make_job(execution={"batch_size": 2, "shard_size": 4, **execution})
    ids = plan(job).table()["request_id"].to_pylist()

    first = run(job, only=[ids[3], ids[12][:8]])
    assert sorted(_made(first.path)) == sorted([ids[2], ids[3], ids[12], ids[13]])
    assert (first.exit_code, first.generated, first.not_done, first.incomplete_because) == (0, 4, 16, None)
    assert run(job, only=[ids[2]]).generated == 0
    assert run(job, only=[ids[0]]).generated == 2

    rest = run(job)
    whole = run({**job, "output": {"path": str(tmp_path / "whole")}})
    same = ("request_id", "pixel_sha256", "batch_id", "attempts", "reproducibility", "status")
    assert rest.generated == 14
    assert rest.complete
    assert [[row[key] for key in same] for row in _rows(rest.path)] == [
        [row[key] for key in same] for row in _rows(whole.path)
    ]


def test_batches_of_single_requests_are_run_and_the_next_run_does_the_others(make_job: MakeJob, tmp_path: Path) -> None:
    _check_that_the_rest_follows(make_job, tmp_path, {"executor": "inline"})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_single_requests_are_run_on_ray(make_job: MakeJob, tmp_path: Path) -> None:
    _check_that_the_rest_follows(make_job, tmp_path, {"executor": "ray", "cpus_per_actor": 0.5})


def test_a_failed_request_that_is_asked_for_counts(make_job: MakeJob) -> None:
    job = make_job(backend={"kind": "procedural", "fail_when": "fox"})
    ids = plan(job).table()["request_id"].to_pylist()

    assert run(job, only=[ids[0]]).exit_code == 1
    assert run(job, only=[ids[4]]).exit_code == 0


def test_failed_rows_are_retried_one_by_one(make_job: MakeJob) -> None:
    made = run(make_job(backend={"kind": "procedural", "fail_when": "fox"}))
    failed = [row["request_id"] for row in _rows(made.path) if row["status"] == "failed"]

    again = retry(made.path, only=[failed[1][:10]], overrides=["backend.fail_when=null"])

    assert (again.generated, again.failed) == (1, len(failed) - 1)
    assert retry(made.path, only=[failed[0]], where="prompt = 'a cat' -- none").generated == 0


def test_a_request_is_verified_by_the_beginning_of_its_id(make_job: MakeJob) -> None:
    made = run(make_job())
    wanted = _rows(made.path)[5]["request_id"]

    assert [row.request_id for row in verify(made.path, ids=[wanted[:7]]).rows] == [wanted]


def test_a_name_of_no_request_is_a_line_with_the_nearest(make_job: MakeJob) -> None:
    made = run(make_job())
    wanted = _rows(made.path)[5]["request_id"]
    wrong = f"{wanted[:-1]}{'0' if wanted[-1] != '0' else '1'}"

    with pytest.raises(SpecError) as caught:
        run(make_job(), only=[wrong, wanted[:5]])

    assert set(caught.value.problems) == {
        f"request {wrong!r}: the plan has none of this id (the nearest is {wanted})",
        f"request {wanted[:5]!r}: give at least 6 characters of its id",
    }


def test_a_file_has_a_name_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("abcdef\n\n123456\n")

    assert read_names(["fedcba", f"@{tmp_path / 'ids.txt'}"]) == ["fedcba", "abcdef", "123456"]
