"""Run shards on the workers of a Ray cluster: join it, let the pool work there, leave it as it was found.

Our own pool on Ray Core (`pool`), which sees Ray through `ray_cluster` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from abstractvision_batch.execute.context import RunContext, Work
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.ray.join import joined_cluster
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.ray.ray_cluster import RayCluster
from abstractvision_batch.execute.ray.variant_lanes import run_variants
from abstractvision_batch.execute.spending import SpendingGuard


def run_shards_ray(
    work: Work,
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
    on_rows: Callable[[int, int], None],
    on_shard: Callable[[ShardSummary], None],
) -> None:
    """Run shards on a Ray cluster's actors until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        work: Variants of the run, each with the numbers of its shards to run.
        interrupts: Polled by the driver; a drain cancels queued shards, a cancel also running ones.
        guard: Asked before each shard.
        on_rows: Called with the (succeeded, failed) rows of shards that are not committed yet.
        on_shard: Called after each commit.

    Raises:
        RunStoppedError: every request fails in the same way.
        DependencyError: the model or a package is missing on a worker.
        StorageError: a worker could not read the plan or write.
        ClusterError: Ray cannot be reached, the cluster cannot hold one actor, or workers die while they load.
    """
    with joined_cluster(work[0][0].spec.execution) as grows:
        interrupts.arm()  # ray.init puts a SIGTERM handler of its own in place
        rows: dict[str | None, tuple[int, int]] = {}

        def start(context: RunContext, shards: Sequence[int]) -> ActorPool:
            def note(succeeded: int, failed: int) -> None:
                rows[context.variant] = (succeeded, failed)
                on_rows(sum(one for one, _ in rows.values()), sum(other for _, other in rows.values()))

            cluster = RayCluster(context, grows=grows)
            return ActorPool(
                cluster, context, shards, interrupts=interrupts, guard=guard, on_rows=note, on_shard=on_shard
            )

        run_variants(work, start, interrupts=interrupts, guard=guard)
