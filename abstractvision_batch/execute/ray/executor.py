"""Run shards on the workers of a Ray cluster: join it, let the pools work there, leave it as it was found.

Our own pool on Ray Core (`pool`), which sees Ray through `ray_cluster` alone.
"""

from __future__ import annotations

from abstractvision_batch.execute.context import Variants
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.ray.join import joined_cluster
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.ray.pools import run_pools
from abstractvision_batch.execute.ray.ray_cluster import RayCluster


def run_shards_ray(variants: Variants, control: Control) -> None:
    """Run shards on a Ray cluster's actors until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        variants: Of the run, each with the numbers of its shards to run.
        control: Of the run; the driver polls it.

    Raises:
        RunStoppedError: every request of a variant fails in the same way.
        DependencyError: the model or a package is missing on a worker.
        StorageError: a worker could not read the plan or write.
        ClusterError: Ray cannot be reached, the cluster cannot hold one actor, or workers die while they load.
    """
    with joined_cluster(variants[0][0].spec.execution) as grows:
        control.interrupts.arm()  # ray.init puts a SIGTERM handler of its own in place

        def start(own: Variants, own_control: Control) -> ActorPool:
            return ActorPool(RayCluster([context for context, _ in own], grows=grows), own, own_control)

        run_pools(variants, start, control)
