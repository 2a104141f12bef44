"""A job on hosts with addresses and folders of their own, submitted from another one; a host is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.support.jobs import MakeJob
from tests.support.journal import wait_for
from tests.support.local_cluster import Host, LocalCluster, local_cluster
from tests.support.namespaces import Namespace, can_make_namespaces, joined_namespaces

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "a-token-of-these-tests-and-of-nothing-else"
BUCKET = "tests"
MAKE_BUCKET = f"import fsspec; fsspec.filesystem('s3').mkdir({BUCKET!r})"


@dataclass
class Network:
    """The hosts, and what runs on them."""

    ray: LocalCluster
    workers: list[subprocess.Popen[bytes]]
    user: Namespace
    environ: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command of the user, on the user's host."""
        command = [*self.user.prefix, sys.executable, "-m", "abstractvision_batch", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environ)

    def avbatch(self, *words: str, exit_code: int = 0) -> str:
        """What it prints."""
        process = self.start(*words)
        said = process.communicate(timeout=200)[0]
        assert process.returncode == exit_code, said
        return said


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A head, two workers, a store and a user, each a host."""
    pytest.importorskip("moto.server")
    if not can_make_namespaces():
        pytest.skip("network namespaces take root and `ip`")
    with joined_namespaces(5) as (head, one, two, store, user):
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))},
            "AWS_ENDPOINT_URL_S3": f"http://{store.ip}:5000",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_AUTH_TOKEN": TOKEN,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),  # of the user's command
        }
        command = [*store.prefix, sys.executable, "-m", "moto.server", "-H", store.ip, "-p", "5000"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ)
        folders = [Path(tempfile.mkdtemp(prefix="avb-")) for _ in range(3)]
        try:
            make = [*user.prefix, sys.executable, "-c", MAKE_BUCKET]
            wait_for(lambda: subprocess.run(make, capture_output=True, env=environ).returncode == 0, "S3 answers")
            hosts = [Host(host.ip, host.prefix, folder) for host, folder in zip((head, one, two), folders, strict=True)]
            with local_cluster(host=hosts[0], environ={**environ, "RAY_AUTH_MODE": "token"}) as ray:
                workers = [ray.add_node(1, host) for host in hosts[1:]]
                yield Network(ray, workers, user, {**environ, "RAY_API_SERVER_ADDRESS": ray.dashboard})
        finally:
            server.kill()
            server.wait(10)
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


def test_a_job_of_another_host_ends_whole_though_a_node_is_lost(
    network: Network, make_job: MakeJob, tmp_path: Path
) -> None:
    """Its input images lie in the package, which each host unpacks in a folder of its own."""
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"{colour}.png")
    url = f"s3://{BUCKET}/run"
    job = make_job(
        task="image_to_image",
        prompts={"source": [{"prompt": f"fox {n}", "image": f"{('red', 'blue')[n % 2]}.png"} for n in range(16)]},
        backend={"kind": "procedural", "delay_s": 0.4},
        output={"path": url},
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    follower = network.start("submit", str(tmp_path / "job.yaml"), "--submission-id", "lost", "--follow")
    try:
        wait_for(lambda: _shards_done(network) >= 3, "three shards are done", seconds=120)
        network.ray.kill_node(network.workers[0])
        said = follower.communicate(timeout=240)[0]
    finally:
        follower.kill()

    assert follower.returncode == 0, said
    assert "64 succeeded, 0 failed" in said
    assert "whole" in network.avbatch("audit", url)
    status = json.loads(network.avbatch("jobs", "status", "lost", "--json"))
    assert (status["state"], status["exit_code"]) == ("succeeded", 0)


def _shards_done(network: Network) -> int:
    jobs: list[dict[str, Any]] = json.loads(network.avbatch("jobs", "list", "--json"))["jobs"]
    return int(jobs[0]["progress"]["shards_done"]) if jobs and jobs[0]["progress"] else 0
