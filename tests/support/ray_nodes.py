"""A Ray cluster of several nodes on this machine, whose nodes and workers can be killed one by one.

The head has no CPUs, so that every worker is on a node that can go. Drivers join by address, each a process of its own.
Ray's folder is this cluster's alone, so that no other program of the machine that looks for a running cluster finds it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

#: A node that is gone is noticed after 5 s instead of 15; one that is merely slow has as long as ever.
HEALTH_CHECKS = {"health_check_period_ms": 1000}


@contextlib.contextmanager
def running_cluster(*cpus: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with one node beside its head for each of `cpus`."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="avb-")  # short: the paths of its sockets may have 107 bytes
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH_CHECKS}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for number in cpus:
                add_node(cluster, number)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Any, cpus: int, **more: Any) -> Any:
    """Let a node join, with made-up GPUs (`num_gpus`) and custom `resources` if wanted."""
    return cluster.add_node(num_cpus=cpus, **more)


def raylet_pid(node: Any) -> int:
    """The process that makes a node one: its workers die with it."""
    return int(node.all_processes["raylet"][0].process.pid)


def worker_pids(nodes: Sequence[Any]) -> list[int]:
    """Processes of our actors on these nodes, loading ones included; their parents are the nodes' raylets."""
    parents = {raylet_pid(node) for node in nodes}
    return [pid for pid, parent, args in _processes() if parent in parents and args.startswith("ray::Worker")]


def processes_below(pid: int) -> dict[int, str]:
    """The command line of each process that descends from this one, by its number."""
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        children = {child: args for child, parent, args in _processes() if parent in parents and child not in found}
        found |= children
        parents = set(children)
    return found


def still_running(processes: Mapping[int, str]) -> list[str]:
    """Those of the processes that have not ended."""
    return [args for pid, _, args in _processes() if pid in processes and not args.endswith("<defunct>")]


def _processes() -> Iterator[tuple[int, int, str]]:
    """The number, the parent and the command line of each process of this machine."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    for line in listing.splitlines():
        pid, parent, args = line.split(maxsplit=2)
        yield int(pid), int(parent), args


def drain_node(cluster: Any, node: Any, *, deadline_s: int) -> None:
    """Announce that a node will be taken away, as a cloud's preemption notice does through Ray."""
    import ray
    from ray.core.generated import autoscaler_pb2

    raylet: Any = ray._raylet
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + deadline_s) * 1000)
    accepted, why = raylet.GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", deadline_ms)
    assert accepted, why
