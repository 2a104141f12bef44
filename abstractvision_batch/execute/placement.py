"""How many actors a run has and what each asks of the cluster. Knows no Ray but its resource names.

`auto` fills the cluster: one actor per GPU where the backend uses GPUs, else one per share of its CPUs. Of actors that
only send requests to a server there are no more than keep it busy, but two, so that one sends while another ends a
shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.context import RunContext

#: Requests in flight of one actor: few enough that reading and storing their images, one core's work, keeps up.
REQUESTS_PER_ACTOR = 16


def actor_options(context: RunContext, resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray's options for one actor.

    Raises:
        ClusterError: no node can ever hold such an actor, and the cluster is not one that grows.
    """
    execution, backend = context.spec.execution, context.backend
    cpus = getattr(backend, "threads", 1) if execution.cpus_per_actor == "auto" else execution.cpus_per_actor
    gpus = execution.gpus_per_actor
    if gpus == "auto":
        device = str(getattr(backend, "device", "cpu"))
        uses_gpu = device == "auto" or device.startswith("cuda")
        gpus = 1.0 if uses_gpu and resources.get("GPU", 0) >= 1 else 0.0
    for name, share in (("CPU", cpus), ("GPU", gpus)):
        if share > resources.get(name, 0) and execution.address is None:
            raise ClusterError(
                f"execution.{name.lower()}s_per_actor: {share:g} {name} wanted for an actor, "
                f"the cluster has {resources.get(name, 0):g} (lower it, or set execution.address to a larger cluster)"
            )
    return {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}


def number_of_actors(
    context: RunContext, resources: Mapping[str, float], options: Mapping[str, Any], *, shards: int
) -> int:
    """Actors of a run: what the spec says or the cluster holds, at least one, at most one per shard."""
    wanted = context.spec.execution.actors
    if wanted != "auto":
        return min(wanted, shards)
    shares = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
    fitting = min(int(resources.get(name, 0) // share) for name, share in shares.items() if share > 0)
    if context.max_in_flight is not None:
        fitting = min(fitting, max(2, math.ceil(context.max_in_flight / REQUESTS_PER_ACTOR)))
    return max(1, min(fitting, shards))
