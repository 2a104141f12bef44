"""Run shards on the workers of a Ray cluster: join it, let the pool work there, leave it as it was found.

Our own pool on Ray Core (`pool`), which sees Ray through `ray_cluster` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.ray.join import joined_cluster
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.ray.ray_cluster import RayCluster
from abstractvision_batch.execute.spending import SpendingGuard


def run_shards_ray(
    context: RunContext,
    shards: Sequence[int],
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
    on_rows: Callable[[int, int], None],
    on_shard: Callable[[ShardSummary], None],
) -> None:
    """Run shards on a Ray cluster's actors until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        context: The run.
        shards: Numbers of the shards to run.
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
    with joined_cluster(context.spec.execution) as grows:
        interrupts.arm()  # ray.init puts a SIGTERM handler of its own in place
        cluster = RayCluster(context, grows=grows)
        ActorPool(
            cluster, context, shards, interrupts=interrupts, guard=guard, on_rows=on_rows, on_shard=on_shard
        ).run()
