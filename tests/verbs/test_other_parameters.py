"""Parameters that only a model's backend has, from the spec to the manifest and in the verbs that read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.runs.row_filter import filter_rows
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.retry import choose_rows
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob

GRID: dict[str, Any] = {
    "matrix": {"extra.mode": ["a", "b"], "extra.sigmas": [[1, 0.5], [1]]},
    "prompts": {"source": [{"prompt": "a fox", "k": 1}, {"prompt": "a cat", "k": 2}], "fields": {"extra.k": "k"}},
    "samples_per_prompt": 1,
}


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_each_row_of_the_manifest_has_its_values(make_job: MakeJob, tmp_path: Path, layout: str) -> None:
    rows = _rows(run(make_job(**GRID, output={"path": str(tmp_path / "run"), "layout": layout})).path)

    assert [(row["extra.mode"], row["extra.sigmas"], row["extra.k"]) for row in rows] == [
        (mode, sigmas, k) for mode in "ab" for sigmas in ("[1, 0.5]", "[1]") for k in (1, 2)
    ]
    assert all(row["status"] == "ok" for row in rows)
    chosen = filter_rows(open_run(tmp_path / "run").table(), "extra.mode = 'a' and extra.k > 1")
    assert chosen["extra.k"].to_pylist() == [2, 2]


def test_a_longer_axis_only_adds(make_job: MakeJob) -> None:
    before = _rows(run(make_job(matrix={"extra.a": [1]}, samples_per_prompt=1)).path)
    grown = run(make_job(matrix={"extra.a": [1, 2.5]}, samples_per_prompt=1), extend=True)

    rows = _rows(grown.path)
    assert [row["request_id"] for row in rows[:5]] == [row["request_id"] for row in before]
    assert [row["extra.a"] for row in rows] == [1.0] * 5 + [2.5] * 5


def test_a_run_that_gets_an_axis_is_extended(make_job: MakeJob) -> None:
    run(make_job(samples_per_prompt=1, params={"width": 32, "height": 24, "seed": 7, "extra": {"a": 1}}))
    grown = run(make_job(samples_per_prompt=1, matrix={"extra.a": [1, 2]}), extend=True)

    assert [row["extra.a"] for row in _rows(grown.path)] == [None] * 5 + [2] * 5


def test_rows_of_failed_points_are_chosen_by_a_parameter(make_job: MakeJob) -> None:
    made = run(make_job(**GRID, backend={"kind": "procedural", "fail_when": "cat"}))

    opened = open_run(made.path)
    assert sum(choose_rows(opened, "extra.mode = 'b' and \"extra.sigmas\" = '[1]'").values()) == 1
    with pytest.raises(SpecError, match=r"no column 'extra.mod' \(did you mean extra.mode\?"):
        choose_rows(opened, "extra.mod = 'b'")


def test_a_run_is_verified_and_run_again_from_its_record(make_job: MakeJob, tmp_path: Path) -> None:
    made = run(make_job(**GRID, draw={"n": 2, "extra.eta": {"uniform": [0, 1]}}))

    assert verify(made.path, sample=None).identical == 16
    again = rerun(made.path, output=str(tmp_path / "again"))
    assert [row["request_id"] for row in _rows(again.path)] == [row["request_id"] for row in _rows(made.path)]


def test_a_difference_names_the_parameter(make_job: MakeJob, tmp_path: Path) -> None:
    one, other = (
        run(
            make_job(
                samples_per_prompt=1,
                output={"path": str(tmp_path / name)},
                params={"width": 32, "height": 24, "seed": b, "extra": {"a": 1, "b": b}},
            )
        )
        for name, b in (("one", 1), ("other", 2))
    )

    assert {name for pair in diff(one.path, other.path).pairs for name in pair.changed} == {"seed", "extra.b"}


def test_parameters_of_a_run_that_is_a_source_are_read_as_nothing_else(make_job: MakeJob, tmp_path: Path) -> None:
    made = run(make_job(**GRID))
    source = {"source": {"run": str(made.path)}}

    rows = _rows(run(make_job(prompts=source, samples_per_prompt=1, output={"path": str(tmp_path / "b")})).path)

    assert [row["source_extra.mode"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert {row["params_json"] for row in rows} == {"{}"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_writes_the_same_rows(make_job: MakeJob, tmp_path: Path) -> None:
    inline = _rows(run(make_job(**GRID, output={"path": str(tmp_path / "inline")})).path)
    execution = {"executor": "ray", "batch_size": 2, "shard_size": 4, "cpus_per_actor": 0.5}
    on_ray = _rows(run(make_job(**GRID, execution=execution, output={"path": str(tmp_path / "ray")})).path)

    same = ("request_id", "extra.mode", "extra.sigmas", "extra.k", "params_json", "pixel_sha256", "status")
    assert [[row[key] for key in same] for row in on_ray] == [[row[key] for key in same] for row in inline]
    assert json.loads(inline[0]["params_json"]) == {"k": 1, "mode": "a", "sigmas": [1, 0.5]}
