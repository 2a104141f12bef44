"""What one actor of a pool asks of the cluster, and which nodes have it. Knows no Ray but its resource names.

An actor takes a GPU, or the share of one that its model needs, where the backend uses GPUs; else CPUs alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.gpu_memory import (
    ACCELERATOR,
    describe_shortage,
    known_gpu_bytes,
    needed_bytes,
    share_of,
)
from abstractvision_batch.text.suggestions import did_you_mean

logger = logging.getLogger(__name__)

#: What Ray counts of `ACCELERATOR` for an actor; a node has 1.
ACCELERATOR_SHARE = 0.001
#: Asks nodes for the memory of their smallest GPU, in bytes, by the node's id; those that do not know are left out.
GpuMeter = Callable[[Sequence[Node]], Mapping[str, int]]


def asked_of(context: RunContext) -> Hashable:
    """What variants have in common whose actors are alike: the package that generates, and what it takes of a node."""
    execution, backend = context.spec.execution, context.backend
    return (
        backend.kind,
        backend.wants_gpu(found=True),
        backend.wants_gpu(found=False),
        backend.cpus if execution.cpus_per_actor == "auto" else execution.cpus_per_actor,
        execution.gpus_per_actor,
        execution.accelerator_type,
        *sorted(execution.resources.items()),
    )


def actor_options(
    contexts: Sequence[RunContext], nodes: Sequence[Node], *, grows: bool, measure_gpus: GpuMeter
) -> dict[str, Any]:
    """Ray's options for one actor, which is to hold the largest of the models.

    Args:
        contexts: Of variants that ask for the same.
        nodes: The cluster's.
        grows: Whether nodes may join that have what is missing; then it is only warned of.
        measure_gpus: Asked where the share of a GPU depends on its memory.

    Raises:
        ClusterError: no node can ever hold such an actor.
    """
    context = contexts[0]
    execution = context.spec.execution
    options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
    cpus = execution.cpus_per_actor
    options["num_cpus"] = context.backend.cpus if cpus == "auto" else cpus
    if execution.accelerator_type is not None:
        options["accelerator_type"] = execution.accelerator_type
    if execution.resources:
        options["resources"] = dict(execution.resources)
    options["num_gpus"] = 0.0
    gpus = execution.gpus_per_actor
    options["num_gpus"] = _gpu_share(contexts, options, nodes, measure_gpus) if gpus == "auto" else gpus
    for shortage in _shortages(needs_of(options), nodes):
        if not grows:
            raise ClusterError(f"{shortage} (change it, or set execution.address to a cluster that has it)")
        logger.warning("%s: waiting for a node, up to execution.node_wait_s (%g s)", shortage, execution.node_wait_s)
    return options


def needs_of(options: Mapping[str, Any]) -> dict[str, float]:
    """What an actor of these options takes of a node, by Ray's resource names."""
    kind = {ACCELERATOR + options["accelerator_type"]: ACCELERATOR_SHARE} if "accelerator_type" in options else {}
    needs = {**kind, "CPU": options["num_cpus"], "GPU": options["num_gpus"], **options.get("resources", {})}
    return {name: float(share) for name, share in needs.items() if share > 0}


def describe_needs(needs: Mapping[str, float]) -> str:
    """For people: ``H100, 4 CPU, 1 GPU``."""
    return ", ".join(
        name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{share:g} {name}"
        for name, share in needs.items()
    )


def room_for(needs: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """How many actors with these needs a node with these resources, or with so much of them free, can hold."""
    return min((_fitting(name, share, resources.get(name, 0.0)) for name, share in needs.items()), default=0)


def _fitting(name: str, share: float, there: float) -> int:
    if name == "GPU" and share < 1:
        return int(there + 1e-6) * int(1 / share + 1e-6) + int(there % 1 / share + 1e-6)  # none spans two GPUs
    return int(there / share + 1e-6)


def _gpu_share(
    contexts: Sequence[RunContext], options: Mapping[str, Any], nodes: Sequence[Node], measure: GpuMeter
) -> float:
    """What `gpus_per_actor: auto` comes to: the smallest GPU on which an actor may be placed decides."""
    context = max(contexts, key=lambda one: needed_bytes(one) or math.inf)
    named = context.spec.execution.accelerator_type is not None
    with_gpus = [node for node in nodes if node.resources.get("GPU", 0) >= 1 and not node.leaving]
    if not (named or context.backend.wants_gpu(found=bool(with_gpus))):
        return 0.0
    qualified = [node for node in with_gpus if room_for(needs_of(options), node.resources)]
    needed = needed_bytes(context)
    if needed is None or not qualified:
        return 1.0
    sizes = _gpu_sizes(with_gpus, measure)
    known = [sizes[node.id] for node in qualified if node.id in sizes]
    if not known:
        return 1.0
    if min(known) < needed:
        larger = {
            name.removeprefix(ACCELERATOR): sizes[node.id]
            for node in with_gpus
            for name in node.resources
            if name.startswith(ACCELERATOR) and sizes.get(node.id, 0) >= needed
        }
        logger.warning("%s", describe_shortage(context.spec.model, min(known), needed, larger))
    return share_of(min(known), needed)


def _gpu_sizes(nodes: Sequence[Node], measure: GpuMeter) -> dict[str, int]:
    sizes = dict(measure(nodes))
    for node in nodes:
        if node.id not in sizes and (known := known_gpu_bytes(node.resources)) is not None:
            sizes[node.id] = known
    return sizes


def _shortages(needs: Mapping[str, float], nodes: Iterable[Node]) -> Iterator[str]:
    """What of an actor's needs no node has, each as a message without an end."""
    there: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.resources.items():
            there[name] = max(amount, there.get(name, 0.0))
    for name, share in needs.items():
        if share <= there.get(name, 0):
            continue
        if name.startswith(ACCELERATOR):
            kinds = sorted(other.removeprefix(ACCELERATOR) for other in there if other.startswith(ACCELERATOR))
            wanted = name.removeprefix(ACCELERATOR)
            yield f"execution.accelerator_type: no node has {wanted}{_known(wanted, kinds)}"
            continue
        field = f"{name.lower()}s_per_actor" if name in ("CPU", "GPU") else f"resources.{name}"
        custom = [other for other in there if other not in _NOT_CUSTOM and not other.startswith((ACCELERATOR, "node:"))]
        hint = _known(name, sorted(custom)) if field.startswith("resources") and name not in there else ""
        yield (f"execution.{field}: {share:g} {name} wanted for an actor, the cluster has {there.get(name, 0):g}{hint}")


_NOT_CUSTOM = frozenset({"CPU", "GPU", "memory", "object_store_memory"})


def _known(word: str, known: Sequence[str]) -> str:
    if (guess := did_you_mean(word, known)) is not None:
        return f", did you mean {guess}?"
    return f", there are {', '.join(known)}" if known else ""
