"""Run the variants of a job on one cluster: pools side by side where their actors need other things, else in turn.

    variants → lanes, by what an actor asks for (GPUs, CPUs, kind of server) → in each lane one pool after the other

A pool of a lane has all the workers that the cluster has room for, so they spread over a variant, and each loads its
model once; when its shards are done its actors end, and the memory of the model with them. A server and a GPU do
not wait for each other. Knows no Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence

from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.execute.context import FAILED_VARIANT, RunContext, Work, name_failed_variant
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.ray.pool import POLL_S, ActorPool
from abstractvision_batch.execute.spending import SpendingGuard

Waiting = deque[tuple[RunContext, Sequence[int]]]


def run_variants(
    work: Work,
    start: Callable[[RunContext, Sequence[int]], ActorPool],
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
) -> None:
    """Run the shards of each variant.

    Args:
        work: Contexts with their shards.
        start: Makes the pool of one.
        interrupts: Polled.
        guard: What it stops starts no other variant.

    Raises:
        AbstractVisionError: what ended the work on a variant, once the others are done.
    """
    lanes: dict[Hashable, Waiting] = {}
    for part, shards in work:
        lanes.setdefault(_needs(part), deque()).append((part, shards))
    running: dict[Hashable, tuple[RunContext, ActorPool]] = {}
    failed: list[AbstractVisionError] = []
    try:
        while lanes:
            for lane, waiting in list(lanes.items()):
                if lane not in running:
                    if not waiting or interrupts.draining or guard.stopped is not None:
                        del lanes[lane]
                        continue
                    part, shards = waiting.popleft()
                    running[lane] = (part, start(part, shards))
                part, pool = running[lane]
                try:
                    goes_on = pool.step(POLL_S / len(lanes))
                except FAILED_VARIANT as error:
                    failed.append(name_failed_variant(part, error))
                    goes_on = False
                if not goes_on:
                    running.pop(lane)[1].close()
    finally:
        for _, pool in running.values():
            pool.close()
    if failed:
        raise failed[0]


def _needs(part: RunContext) -> Hashable:
    """What tells whether actors of two variants compete for the same things of a node."""
    execution = part.spec.execution
    return (
        part.backend.server_url is not None,
        part.backend.wants_gpu(found=True),
        execution.gpus_per_actor,
        execution.accelerator_type,
        *sorted(execution.resources.items()),
    )
