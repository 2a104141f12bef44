"""Run the variants of a job on one cluster: those whose actors are alike share a pool; pools work side by side.

    variants → pools, by the package that generates and by what an actor asks for (GPUs, CPUs, ...)

A server and a GPU do not wait for each other. Pools that want the same GPUs take what is free: one that comes too late
has an actor that waits for its place, and grows when another has nothing left to do. Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

from abstractvision_batch.execute.context import FAILED_VARIANT, RunContext, Variants
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.ray.placement import asked_of
from abstractvision_batch.execute.ray.pool import POLL_S, ActorPool


def run_pools(variants: Variants, start: Callable[[Variants, Control], ActorPool], control: Control) -> None:
    """Run the shards of each variant.

    Args:
        variants: Contexts with their shards.
        start: Makes the pool of some of them.
        control: Of the run.

    Raises:
        AbstractVisionError: what ended the work on a variant or on everything, once what was running is done.
    """
    alike: dict[Hashable, list[tuple[RunContext, list[int]]]] = {}
    for context, shards in variants:
        alike.setdefault(asked_of(context), []).append((context, list(shards)))
    rows = dict.fromkeys(range(len(alike)), (0, 0))

    def of_pool(number: int) -> Control:
        def note(succeeded: int, failed: int) -> None:
            rows[number] = (succeeded, failed)
            control.on_rows(sum(one for one, _ in rows.values()), sum(other for _, other in rows.values()))

        return replace(control, on_rows=note)

    pools: list[ActorPool] = []
    errors: list[Exception] = []
    try:
        for number, own in enumerate(alike.values()):
            pools.append(start(own, of_pool(number)))
        while pools:
            for pool in list(pools):
                if not pool.step(POLL_S / len(pools)):
                    pools.remove(pool)
                    pool.close()
                    errors += pool.errors
    finally:
        for pool in pools:
            pool.close()
    if errors:
        raise min(errors, key=lambda error: isinstance(error, FAILED_VARIANT))
