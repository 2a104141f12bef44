"""What Ray takes of the driver's processor, measured on a real cluster of this machine: for each shard and each second.

Shards of one request that takes no time: what is left is the call, its answer and the driver's loop. What the driver
does every so often, whatever the shards, is measured with shards that take long, and taken off. Every thread of the
driver's process counts. Ray's head (its GCS and this node's raylet) is beside it; the workers' processes do not count.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.model import ExecutionSpec
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.start import start_run
from benchmarks.large_run import describe_job, write_prompts

SHARDS = 2000
WARM_UP = 200
IDLE_S = 15.0
#: Of those seconds, what workers may take to start.
IDLE_SKIPPED_S = 7.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
HEAD = ("gcs_server", "raylet")


class Mark(NamedTuple):
    """Seconds: passed, of the driver's processor, of the head's."""

    wall: float
    driver: float
    head: float

    def since(self, before: Mark) -> Mark:
        return Mark(*(now - then for now, then in zip(self, before, strict=True)))


def measure_ray(actors: int, shards: int = SHARDS) -> Iterator[str]:
    """Lines that say what a shard costs on so many actors."""
    from abstractvision_batch.execute.ray.join import joined_cluster

    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        joined_cluster(ExecutionSpec()),
    ):
        idle = _measure_idle(_start(Path(folder) / "idle", actors, shards=actors, delay_s=IDLE_S))
        busy = _measure_busy(_start(Path(folder) / "busy", actors, shards=shards, delay_s=0.0))
    counted = shards - WARM_UP
    driver = (busy.driver - idle.driver / idle.wall * busy.wall) / counted
    head = (busy.head - idle.head / idle.wall * busy.wall) / counted
    yield f"{counted:,} shards on {actors} actors, {counted / busy.wall:,.0f} shards/s"
    yield f"a shard:  driver {driver * 1000:.3f} ms, Ray's head {head * 1000:.3f} ms"
    yield f"a second: driver {idle.driver / idle.wall * 1000:.1f} ms, Ray's head {idle.head / idle.wall * 1000:.1f} ms"


def _start(folder: Path, actors: int, *, shards: int, delay_s: float) -> RunContext:
    folder.mkdir()
    write_prompts(folder / "prompts.csv", shards)
    execution = {"executor": "ray", "actors": actors, "cpus_per_actor": 1 / actors, "gpus_per_actor": 0}
    sizes = {"shard_size": 1, "batch_size": 1, "batch_canary": False}
    small = {"params": {"width": 64, "height": 64}, "backend": {"kind": "procedural", "delay_s": delay_s}}
    job = describe_job(str(folder / "run"), execution={**execution, **sizes}, **small)
    loaded = load_job(job, base_dir=folder)
    store = open_store(str(folder / "run"))
    return build_context(loaded, store, start_run(loaded, store).plan)


def _measure_idle(context: RunContext) -> Mark:
    """Of some seconds in which no shard ends."""
    marks: list[Mark] = []
    _run(context, on_rows=lambda: marks.append(_mark()))
    settled = next(mark for mark in marks if mark.wall - marks[0].wall > IDLE_SKIPPED_S)
    return marks[-1].since(settled)


def _measure_busy(context: RunContext) -> Mark:
    """Of all shards but the first ones."""
    marks: list[Mark] = []
    done = itertools.count(1)

    def mark() -> None:
        if next(done) in (WARM_UP, context.plan.shards):  # looking at the head's processes costs as much as a shard
            marks.append(_mark())

    _run(context, on_shard=mark)
    first, last = marks
    return last.since(first)


def _run(
    context: RunContext, *, on_rows: Callable[[], None] = lambda: None, on_shard: Callable[[], None] = lambda: None
) -> None:
    from abstractvision_batch.execute.ray.ray_cluster import RayCluster

    control = Control(
        Interrupts(),
        SpendingGuard(context.spec.execution),
        on_rows=lambda succeeded, failed: on_rows(),
        on_shard=lambda summary: on_shard(),
    )
    ActorPool(RayCluster([context], grows=False), [(context, range(context.plan.shards))], control).run()


def _mark() -> Mark:
    return Mark(time.perf_counter(), time.process_time(), _head_cpu_s())


def _head_cpu_s() -> float:
    """Processor time of Ray's head, whose processes are children of this one."""
    total = 0
    for path in Path("/proc/self/task").glob("*/children"):
        for child in path.read_text().split():
            name, _, rest = Path(f"/proc/{child}/stat").read_text().partition("(")[2].rpartition(")")
            if name in HEAD:
                fields = rest.split()
                total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S
