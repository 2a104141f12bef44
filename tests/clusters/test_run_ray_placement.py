"""Where actors go on a cluster of several nodes: which ones, how many of them, and what they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from tests.support.jobs import MakeJob
from tests.support.journal import read_journal, wait_for
from tests.support.openai_server import running_server
from tests.support.ray_nodes import add_node, running_cluster, worker_pids

pytestmark = pytest.mark.ray

SECRET = "5up3r-s3cr3t-v4lu3"
HEAVY_CARD = {
    "cards": [
        {
            "id": "test/heavy",
            "license": "MIT",
            "tasks": {"text_to_image": {"params": {name: {} for name in ("prompt", "width", "height", "seed")}}},
            "backends": {"procedural": {"memory_bytes": 6_900_000_000}},
        }
    ],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that holds no workers; each test brings its nodes."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def join(cluster: Any) -> Iterator[Callable[..., Any]]:
    """Lets nodes join, which are gone after the test."""
    yield lambda cpus, **more: add_node(cluster, cpus, **more)
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def start(cluster: Any, make_job: MakeJob, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the driver of a job of 20 requests in 5 shards, with these sections, in a process of its own."""

    def start(execution: dict[str, Any], **sections: Any) -> subprocess.Popen[str]:
        sections.setdefault("backend", {"kind": "procedural", "delay_s": 0.5})
        if sections["backend"]["kind"] == "procedural":
            sections["backend"] = {**sections["backend"], "journal_path": str(tmp_path / "journal.jsonl")}
        job = make_job(execution={"batch_size": 2, "shard_size": 4, **execution}, **sections)
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-m", "abstractvision_batch", "run", str(tmp_path / "job.yaml"), "--quiet"]
        environ = {**os.environ, "OF_THE_DRIVER": SECRET}
        command += ["--address", cluster.address]
        drivers.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ))
        return drivers[-1]

    drivers: list[subprocess.Popen[str]] = []
    yield start
    for driver in drivers:
        if driver.poll() is None:
            driver.kill()  # a test that failed has left it
            driver.communicate()


def _ends_with(driver: subprocess.Popen[str], exit_code: int, *, seconds: float = 120) -> str:
    said = driver.communicate(timeout=seconds)[1]
    assert driver.returncode == exit_code, said
    assert "Traceback" not in said
    return said


def _begun(folder: Path) -> list[int]:
    """Processes, in the order in which they began requests."""
    return [entry.pid for entry in read_journal(folder / "journal.jsonl")]


@pytest.mark.slow
def test_auto_uses_a_node_that_joins_and_lets_one_go_that_is_not_needed_any_more(
    start: Callable[..., subprocess.Popen[str]], join: Callable[..., Any], tmp_path: Path
) -> None:
    """One worker is at the last shard for as long as the other has nothing to do: that one ends meanwhile."""
    nodes = [join(1)]
    driver = start({}, backend={"kind": "procedural", "delay_s": 0.7})
    wait_for(lambda: bool(_begun(tmp_path)), "generation")
    nodes.append(join(1))
    wait_for(lambda: len(set(_begun(tmp_path))) == 2, "generation on the node that joined")
    wait_for(lambda: len(worker_pids(nodes)) < 2, "the end of an actor without work")
    at_work = driver.poll() is None

    _ends_with(driver, 0)

    assert at_work
    assert len(set(_begun(tmp_path))) == 2  # each loaded once
    assert audit(tmp_path / "run", repair=False, grace_s=0).remaining == ()


@pytest.mark.slow
def test_actors_share_the_gpu_of_the_node_that_has_what_they_ask_for(
    start: Callable[..., subprocess.Popen[str]],
    join: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """6.9 GB of weights fit twice on the 24 GiB that the node's `nvidia-smi` speaks of."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\necho 24576\n")
    program.chmod(0o755)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(HEAVY_CARD))
    join(4, num_gpus=1)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    wanted = join(4, num_gpus=1, resources={"rack": 8, "accelerator_type:Z9": 1})
    driver = start(
        {"accelerator_type": "Z9", "resources": {"rack": 1}},
        model="test/heavy",
        registry={"paths": [str(tmp_path / "card.yaml")]},
    )
    wait_for(lambda: len(set(_begun(tmp_path))) == 2, "generation of two actors")
    there = worker_pids([wanted])

    _ends_with(driver, 0)

    assert set(_begun(tmp_path)) == set(there)
    assert len(there) == 2


@pytest.mark.slow
def test_a_secret_reaches_workers_and_no_file_of_ray(
    start: Callable[..., subprocess.Popen[str]], cluster: Any, join: Callable[..., Any]
) -> None:
    join(1)
    with running_server(api_key=SECRET) as server:
        backend = {"kind": "openai", "base_url": server.base_url, "api_key": {"env": "OF_THE_WORKER"}}
        env_vars = {"OF_THE_WORKER": {"env": "OF_THE_DRIVER"}, "SEEN_BY_RAY": "pl41n-v4lu3"}
        driver = start({"runtime_env": {"env_vars": env_vars}}, backend=backend)

        _ends_with(driver, 0)

        assert server.last.headers["authorization"] == f"Bearer {SECRET}"
    files = [path for path in Path(cluster.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    holding = {word: [path.name for path in files if word.encode() in path.read_bytes()] for word in (SECRET, "pl41n-")}
    assert holding[SECRET] == []
    assert holding["pl41n-"] != []  # so this is where Ray writes them


@pytest.mark.slow
def test_a_range_asks_for_more_than_there_is_and_keeps_its_least(
    start: Callable[..., subprocess.Popen[str]], join: Callable[..., Any], tmp_path: Path
) -> None:
    nodes = [join(1)]
    driver = start({"actors": {"min": 2, "max": 3}}, backend={"kind": "procedural", "delay_s": 1.5})
    wait_for(lambda: bool(_begun(tmp_path)), "generation")
    nodes += [join(1), join(1)]
    wait_for(lambda: len(set(_begun(tmp_path))) == 3, "generation of three actors")
    wait_for(lambda: len(worker_pids(nodes)) == 2, "the end of the third")

    _ends_with(driver, 0)


@pytest.mark.slow
def test_a_head_that_dies_ends_a_run_with_4_and_running_again_elsewhere_finishes_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    with running_cluster(1) as cluster:
        job = make_job(backend={"kind": "procedural", "delay_s": 2.0}, execution={"batch_size": 2, "shard_size": 4})
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-m", "abstractvision_batch", "run", str(tmp_path / "job.yaml"), "--quiet"]
        driver = subprocess.Popen([*command, "--address", cluster.address], stderr=subprocess.PIPE, text=True)
        wait_for(lambda: bool(list((tmp_path / "run/manifest").glob("*"))), "the first shard")
        os.kill(cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
        said = _ends_with(driver, 4, seconds=200)

    again = subprocess.run([*command, "--set", "backend.delay_s=0"], capture_output=True, text=True, check=False)

    assert "did not answer for 60 s" in said
    assert again.returncode == 0, again.stderr
    assert open_run(tmp_path / "run").counts.succeeded == 20
