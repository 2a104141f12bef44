"""What a run records of software and machines: the driver's in `run.json`, a worker's in a file that its rows name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.runs.environment import describe_driver, differing_values, read_driver_version
from abstractvision_batch.runs.environment_files import put_environment, read_environments
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path / "manifest.parquet").to_pylist()
    return rows


def _git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_every_row_names_the_environment_that_made_it(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())

    (name,) = {row["environment_id"] for row in _rows(tmp_path / "run")}
    environment = json.loads((tmp_path / f"run/environments/{name}.json").read_text())
    assert {"avbatch", "python", "platform", "cpu", "packages", "variables", "backend"} <= set(environment)
    assert {row["device_name"] for row in _rows(tmp_path / "run")} == {environment["backend"]["device_name"]}
    assert environment["packages"]["numpy"]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["environment"]["packages"] == environment["packages"]
    assert record["environment"]["host"]


def test_the_parameters_that_follow_from_spec_and_card_are_recorded(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(execution={}, backend={"kind": "procedural"}, params={"width": 64, "seed": 3})

    run(job)

    record = json.loads((tmp_path / "run/run.json").read_text())
    params = load_cards()["avbatch/procedural"].tasks["text_to_image"].params
    assert record["params"]["steps"] == params["steps"].default == 20
    assert (record["params"]["width"], record["params"]["seed"]) == (64, 3)
    assert (record["spec"]["execution"]["batch_size"], record["plan"]["batch_size"]) == ("auto", 8)
    assert record["plan"]["shard_size"] > 0
    assert {row["steps"] for row in _rows(tmp_path / "run")} == {20}


def test_another_environment_of_a_resumed_run_is_another_file_and_says_what_changed(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(make_job())
    (before,) = read_environments(open_store(str(tmp_path / "run")))
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    run(make_job())

    found = read_environments(open_store(str(tmp_path / "run")))
    (after,) = set(found) - {before}
    assert list(differing_values(found[before], found[after])) == [("variables.OMP_NUM_THREADS", "1", "2")]
    by_shard = {(row["shard"], row["environment_id"]) for row in _rows(tmp_path / "run")}
    assert by_shard == {(shard, after if shard == 2 else before) for shard in range(5)}


def test_a_retried_row_names_the_environment_of_its_retry(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_job(backend={"kind": "procedural", "fail_when": "dog"}))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")

    retry(tmp_path / "run", overrides=["backend.fail_when=null"])

    names = {(row["prompt"] == "a dog", row["environment_id"]) for row in _rows(tmp_path / "run")}
    assert len(names) == len({name for _, name in names}) == 2


def test_workers_that_are_alike_share_one_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    description = {"python": "3.11.7", "backend": {"device": "cuda:0", "device_name": "NVIDIA H200"}}

    first, second = put_environment(store, description), put_environment(store, dict(reversed(description.items())))

    assert first == second
    assert (first.device, first.device_name) == ("cuda:0", "NVIDIA H200")
    assert read_environments(store) == {first.id: description}


def test_the_working_tree_is_recorded_with_its_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe_driver()["git_commit"] is None
    assert describe_driver()["git_dirty"] is None
    (tmp_path / "spec.yaml").write_text("name: a")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "untracked").touch()

    clean = describe_driver()
    (tmp_path / "spec.yaml").write_text("name: b")
    dirty = describe_driver()

    assert len(clean["git_commit"]) == 40
    assert (clean["git_dirty"], dirty["git_dirty"]) == (False, True)


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder)",
    ],
)
def test_the_gpu_driver_is_read_of_what_its_module_says(text: str) -> None:
    assert read_driver_version(text) == "550.54.15"
    assert read_driver_version("something else") is None


def test_the_libraries_that_come_with_torch_are_packages_too(tmp_path: Path) -> None:
    (tmp_path / "nvidia_cublas_cu12-12.8.4.1.dist-info").mkdir()
    code = "from abstractvision_batch.runs.environment import describe_software as d; print(d()['packages'])"
    paths = os.pathsep.join([str(tmp_path), *sys.path])

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )

    assert "'nvidia-cublas-cu12': '12.8.4.1'" in done.stdout
