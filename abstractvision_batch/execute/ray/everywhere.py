"""Call a function once on every node of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.execute.ray.join import joined_cluster
from abstractvision_batch.execute.ray.ray_cluster import first_line
from abstractvision_batch.job.model import ExecutionSpec


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What the function returned on a node, or why it did not."""

    node: str
    """Its host name."""
    value: Any = None
    problem: str | None = None


def call_everywhere(address: str, function: Callable[..., Any], *values: Any) -> list[NodeAnswer]:
    """Call the function with the values on every node that is up, all at once; it takes no CPU of the cluster's.

    Raises:
        ClusterError: the cluster cannot be reached.
        SpecError: the address is not one that a driver joins.
    """
    with joined_cluster(ExecutionSpec(address=address)):
        nodes = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in ray.nodes() if node["Alive"]}
        remote = ray.remote(num_cpus=0, max_retries=0)(function)
        calls = [
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*values)
            for node in nodes
        ]
        return [_answer(name, call) for name, call in zip(nodes.values(), calls, strict=True)]


def _answer(node: str, call: Any) -> NodeAnswer:
    try:
        return NodeAnswer(node, ray.get(call))
    except RayTaskError as exc:
        cause = exc.as_instanceof_cause()
        return NodeAnswer(
            node, problem=str(exc.cause) if isinstance(exc.cause, AbstractVisionError) else first_line(cause)
        )
    except RayError as exc:
        return NodeAnswer(node, problem=first_line(exc))
