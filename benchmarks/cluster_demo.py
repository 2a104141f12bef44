"""`make bench NAME=cluster_demo`: the main job on a cluster of two nodes, one of which is killed half-way.

A Ray cluster of two nodes that asks for a token, and an S3, both on this machine; `avbatch submit` sends
specs/demo.yaml there and follows it; a node is killed once both have worked, while at least half of the shards are
open; the run must end whole, its audit clean. Ends with 0, or with 1 and what was not so.

    python -m benchmarks.cluster_demo [--samples 8]
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.opened import open_run
from tests.support.local_cluster import LocalCluster, local_cluster

ROOT = Path(__file__).resolve().parent.parent
SPEC = "specs/demo.yaml"
BUCKET = "cluster-demo"
JOB = "cluster-demo"
SHARD_SIZE = 8
LIMIT_S = 900


@contextmanager
def running_s3() -> Iterator[dict[str, str]]:
    """An S3 in this process; the variables by which every driver finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environ = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(environ)
    import fsspec

    fsspec.filesystem("s3", use_listings_cache=False).mkdir(BUCKET)
    try:
        yield environ
    finally:
        server.stop()


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=8, help="pictures of each of the 24 prompts")
    samples = parser.parse_args().samples
    begun = time.monotonic()
    token = secrets.token_hex(20)
    with running_s3() as s3:
        environ = {**s3, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        say("starting two nodes, each of one CPU, and an S3")
        with local_cluster(cpus=1, environ=environ) as cluster:
            node = cluster.add_node(1)
            user = {**os.environ, **s3, "RAY_AUTH_TOKEN": token, "RAY_API_SERVER_ADDRESS": cluster.dashboard}
            url = f"s3://{BUCKET}/demo"
            follower = submit(user, url, samples)
            killed_at = kill_half_way(cluster, node, user, url)
            exit_code = follower.wait(LIMIT_S)
            faults = check(user, url, exit_code, killed_at)
    say(f"{time.monotonic() - begun:.0f} s in all: {'whole' if not faults else '; '.join(faults)}")
    return 1 if faults else 0


def submit(user: Mapping[str, str], url: str, samples: int) -> subprocess.Popen[bytes]:
    """Send the demo's spec and follow it."""
    command = ["submit", SPEC, "--submission-id", JOB, "--follow"]
    for text in (f"output.path={url}", f"samples_per_prompt={samples}", f"execution.shard_size={SHARD_SIZE}"):
        command += ["--set", text]
    say(f"$ avbatch {' '.join(command)}")
    return subprocess.Popen([sys.executable, "-m", "abstractvision_batch", *command], env=dict(user), cwd=ROOT)


def kill_half_way(
    cluster: LocalCluster, node: subprocess.Popen[bytes], user: Mapping[str, str], url: str
) -> tuple[int, int]:
    """Kill a node once both have made pictures; how many shards were done then, and how many there are."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            run = open_run(url)
        except SpecError:
            continue  # it is not planned yet
        done = run.plan.shards - len(run.missing_shards())
        if done * 3 >= run.plan.shards and len(set(run.table()["worker"].to_pylist())) > 1:
            cluster.kill_node(node)
            say(f"a node was killed: {done} of {run.plan.shards} shards were done")
            say(f"$ avbatch jobs status {JOB}")
            say(avbatch(user, "jobs", "status", JOB).stdout)
            return done, run.plan.shards
    return 0, 0


def check(user: Mapping[str, str], url: str, exit_code: int, killed_at: tuple[int, int]) -> list[str]:
    """Show the run and its audit; what is not as it must be."""
    faults = [f"the job ended with {exit_code}"] if exit_code else []
    done, shards = killed_at
    if not 0 < done * 2 <= shards:
        faults.append(f"{done} of {shards} shards were done when the node was killed, so less than half was open")
    for command in (("status", url), ("audit", url)):
        say(f"$ avbatch {' '.join(command)}")
        shown = avbatch(user, *command)
        sys.stdout.write(shown.stdout + shown.stderr)
        if shown.returncode:
            faults.append(f"avbatch {command[0]} ended with {shown.returncode}")
    run = open_run(url)
    workers = run.table()["worker"].to_pylist()
    say(f"rows by worker: {dict(sorted(Counter(workers).items()))}")
    if len(set(workers)) < 2:
        faults.append("one worker made everything")
    return faults


def avbatch(user: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    command = [sys.executable, "-m", "abstractvision_batch", *words]
    return subprocess.run(command, env=dict(user), cwd=ROOT, capture_output=True, text=True)


def say(text: str) -> None:
    """One line of what goes on."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
