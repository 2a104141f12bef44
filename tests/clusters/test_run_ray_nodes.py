"""Whole jobs on a cluster of several nodes, of which workers, nodes and drivers are killed in the middle of a shard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.storage.names import TEMPORARY_PREFIX
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.journal import read_journal, wait_for
from tests.support.ray_nodes import (
    add_node,
    drain_node,
    processes_below,
    raylet_pid,
    running_cluster,
    still_running,
    worker_pids,
)

pytestmark = pytest.mark.ray

#: Columns of when, by whom and where.
OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker", "environment_id"}
DELAY_S = 0.2
"""Seconds of a request; a shard has four."""


@dataclass
class Job:
    """A job of 20 requests in 5 shards on the cluster, and what its drivers said."""

    cluster: Any
    spec: Path
    path: Path
    journal: Path

    def start(self, *options: str) -> subprocess.Popen[str]:
        """A driver of its own process."""
        command = [sys.executable, "-m", "abstractvision_batch", "run", str(self.spec), "--quiet", *options]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def begun(self) -> Counter[int]:
        """How often each request was begun, by its seed."""
        return Counter(entry.seed for entry in read_journal(self.journal))

    def workers(self) -> list[int]:
        """Processes that began a request, the latest last."""
        return list(dict.fromkeys(entry.pid for entry in read_journal(self.journal)))

    def rows(self) -> pa.Table:
        """Its manifest, without what is of the moment; the audit finds only temporary files of killed writers."""
        repaired = audit(self.path, repair=True, grace_s=0)
        assert repaired.remaining == ()
        assert all(TEMPORARY_PREFIX in name for name in repaired.removed)
        return _rows(self.path)


def _rows(path: str | Path) -> pa.Table:
    manifest = open_run(path).table()
    return manifest.select([name for name in manifest.column_names if name not in OF_THE_MOMENT])


def _ends_with(driver: subprocess.Popen[str], exit_code: int) -> str:
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == exit_code, said
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that holds no workers; each test brings its nodes."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def nodes(cluster: Any) -> Iterator[Callable[[int], Any]]:
    """Lets nodes join, which are gone after the test."""
    yield lambda cpus: add_node(cluster, cpus)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def job(cluster: Any, make_job: MakeJob, tmp_path: Path) -> Job:
    return _make_job(cluster, make_job, tmp_path)


def _make_job(cluster: Any, make_job: MakeJob, tmp_path: Path, *, delay_s: float = DELAY_S, **execution: Any) -> Job:
    spec, journal = tmp_path / "job.yaml", tmp_path / "journal.jsonl"
    address = {} if cluster is None else {"address": cluster.address}
    execution = {"executor": "ray", **address, "batch_size": 2, "shard_size": 4, **execution}
    backend = {"kind": "procedural", "delay_s": delay_s, "journal_path": str(journal)}
    spec.write_text(yaml.safe_dump(make_job(backend=backend, execution=execution)))
    return Job(cluster, spec, tmp_path / "run", journal)


@pytest.fixture
def undisturbed(make_job: MakeJob, tmp_path: Path) -> pa.Table:
    """The manifest of the same job, run in this process."""
    return _rows(run(make_job(output={"path": str(tmp_path / "undisturbed")})).path)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_shard_costs_no_more_than_that_shard(
    job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    nodes(2)
    driver = job.start()
    wait_for(lambda: len(job.begun()) >= 3, "generation")
    os.kill(job.workers()[-1], signal.SIGKILL)

    _ends_with(driver, 0)

    assert job.rows() == undisturbed
    assert sum(job.begun().values()) <= 20 + 4


@pytest.mark.slow
def test_a_node_killed_in_the_middle_of_a_shard_leaves_the_run_to_the_others(
    job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    nodes(1)
    lost = nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.workers()) == 2, "generation on both nodes")
    job.cluster.remove_node(lost, allow_graceful=False)

    said = _ends_with(driver, 0)

    assert "a node went away" in said
    assert job.rows() == undisturbed
    assert sum(job.begun().values()) <= 20 + 4


@pytest.mark.slow
def test_without_any_node_left_a_run_ends_with_4_and_running_again_finishes_it(
    cluster: Any, make_job: MakeJob, tmp_path: Path, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    job = _make_job(cluster, make_job, tmp_path, node_wait_s=2)
    lost = nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.begun()) >= 6, "generation of a second shard")
    job.cluster.remove_node(lost, allow_graceful=False)

    said = _ends_with(driver, 4)
    nodes(1)
    _ends_with(job.start(), 0)

    assert "no node of the cluster could hold a worker (1 CPU) for execution.node_wait_s (2 s)" in said
    assert job.rows() == undisturbed


@pytest.mark.slow
def test_a_node_that_joins_takes_the_place_of_the_only_one(
    job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    lost = nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.begun()) >= 3, "generation")
    job.cluster.remove_node(lost, allow_graceful=False)
    nodes(1)

    _ends_with(driver, 0)

    assert job.rows() == undisturbed


@pytest.mark.slow
def test_actors_that_found_no_place_are_placed_on_a_node_that_joins(
    cluster: Any, make_job: MakeJob, tmp_path: Path, nodes: Callable[[int], Any]
) -> None:
    """`actors: auto` counts the CPUs when the run starts; a number asks for more, as a cluster that grows needs it."""
    job = _make_job(cluster, make_job, tmp_path, delay_s=1.0, actors=2)
    nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.begun()) >= 2, "generation")
    nodes(1)

    _ends_with(driver, 0)

    assert len(job.workers()) == 2


@pytest.mark.slow
def test_actors_end_soon_after_their_driver_is_killed_and_running_again_finishes_the_run(
    job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    node = nodes(2)
    driver = job.start()
    wait_for(lambda: len(job.begun()) >= 3, "generation")
    driver.kill()
    driver.communicate()
    wait_for(lambda: not worker_pids([node]), "the end of the actors", seconds=30)
    begun = job.begun()

    _ends_with(job.start(), 0)

    assert len(begun) <= 20 - 4
    assert job.rows() == undisturbed


@pytest.mark.slow
def test_a_driver_that_is_told_to_end_lets_running_shards_commit_and_begins_no_other(
    cluster: Any, make_job: MakeJob, tmp_path: Path, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    """A shard takes 4 s here; the second that its worker holds is not begun."""
    job = _make_job(cluster, make_job, tmp_path, delay_s=1)
    nodes(1)
    driver = job.start()
    wait_for(lambda: bool(job.begun()), "generation")
    driver.send_signal(signal.SIGTERM)
    said = _ends_with(driver, 130)
    begun, done = job.begun(), open_run(job.path).counts.succeeded

    _ends_with(job.start("--set", "backend.delay_s=0"), 0)

    assert "running shards finish and commit" in said
    assert job.rows() == undisturbed
    assert set(job.begun().values()) == {1}
    assert len(begun) == done == 4


@pytest.mark.slow
def test_a_drain_that_takes_longer_than_its_limit_cancels_what_workers_run(
    cluster: Any, make_job: MakeJob, tmp_path: Path, nodes: Callable[[int], Any]
) -> None:
    """A shard takes 80 s here; the driver would wait for it."""
    job = _make_job(cluster, make_job, tmp_path, delay_s=20, drain_timeout_s=0.5)
    nodes(1)
    driver = job.start()
    wait_for(lambda: bool(job.begun()), "generation")
    driver.send_signal(signal.SIGTERM)

    said = driver.communicate(timeout=60)[1]

    assert driver.returncode == 130
    assert "running shards have 0.5 s to finish and commit" in said
    assert open_run(job.path).missing_shards() == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("deadline_s", [60, pytest.param(0, marks=pytest.mark.slow)])
def test_shards_of_a_node_that_is_drained_finish_there_or_move(
    deadline_s: int, job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    """With time, nothing is generated again and the node is free long before it must be; without, one shard moves."""
    nodes(1)
    leaving = nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.workers()) == 2, "generation on both nodes")
    drain_node(job.cluster, leaving, deadline_s=deadline_s)
    started = time.monotonic()
    if deadline_s:
        wait_for(lambda: not worker_pids([leaving]), "the end of its worker", seconds=deadline_s)
    else:
        job.cluster.remove_node(leaving, allow_graceful=False)
    took = time.monotonic() - started

    _ends_with(driver, 0)

    assert took < 30
    assert job.rows() == undisturbed
    assert sum(job.begun().values()) <= 20 + (0 if deadline_s else 4)


@pytest.mark.slow
def test_a_raylet_that_is_told_to_end_costs_no_more_than_its_shard(
    job: Job, nodes: Callable[[int], Any], undisturbed: pa.Table
) -> None:
    nodes(1)
    leaving = nodes(1)
    driver = job.start()
    wait_for(lambda: len(job.workers()) == 2, "generation on both nodes")
    os.kill(raylet_pid(leaving), signal.SIGTERM)

    _ends_with(driver, 0)

    assert job.rows() == undisturbed
    assert sum(job.begun().values()) <= 20 + 4


@pytest.fixture
def own_ray(make_job: MakeJob, tmp_path: Path) -> Iterator[Job]:
    """A job whose driver starts a Ray of its own, in a folder that no other program looks into."""
    folder = tempfile.mkdtemp(prefix="avb-")  # short: the paths of its sockets may have 107 bytes
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        yield _make_job(None, make_job, tmp_path, delay_s=0.5, actors=1)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_death_of_the_head_of_its_own_ray_ends_a_run_with_4_and_one_line(
    own_ray: Job, undisturbed: pa.Table
) -> None:
    driver = own_ray.start()
    wait_for(lambda: len(own_ray.begun()) >= 2, "generation")
    processes = processes_below(driver.pid)
    (head,) = (pid for pid, command in processes.items() if "gcs_server" in command.split()[0])
    os.kill(head, signal.SIGKILL)

    said = _ends_with(driver, 4)

    assert said == "the cluster's head did not answer for 60 s (when it is up, running again resumes)\n"
    wait_for(lambda: not still_running(processes), "the end of Ray's processes", seconds=10)
    again = own_ray.start("--set", "backend.delay_s=0")
    _ends_with(again, 0)
    assert own_ray.rows() == undisturbed


@pytest.mark.slow
def test_a_held_ctrl_c_ends_with_130_without_a_traceback_or_a_process_of_ray(own_ray: Job) -> None:
    driver = own_ray.start()
    wait_for(lambda: len(own_ray.begun()) >= 2, "generation")
    processes = processes_below(driver.pid)
    for _ in range(40):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.02)

    said = _ends_with(driver, 130)

    assert [line.split(":")[0].split(" (")[0] for line in said.splitlines()] == [
        "interrupted",
        "interrupted again",
        "stopped at once",
    ]
    assert len(processes) > 5
    wait_for(lambda: not still_running(processes), "the end of Ray's processes", seconds=10)
