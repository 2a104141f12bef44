"""What one actor asks of a cluster, for made-up nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.gpu_memory import GIB
from abstractvision_batch.execute.ray.placement import actor_options, needs_of, room_for
from tests.support.run_context import context_of


def _node(name: str = "a", **resources: float) -> Node:
    """`H100` and the like become Ray's resource of that name."""
    accelerators = {f"accelerator_type:{key}": 1.0 for key in ("H100", "L4", "A100") if resources.pop(key, None)}
    everything = {"CPU": 8.0, "memory": 1e9, "node:10.0.0.1": 1.0, **resources, **accelerators}
    return Node(name, everything, free=everything)


def _options(context: RunContext, *nodes: Node, grows: bool = False, **sizes: int) -> dict[str, Any]:
    """`sizes` are GiB of the GPUs of nodes that can say so, by node."""

    def measure(asked: Sequence[Node]) -> Mapping[str, int]:
        return {node.id: sizes[node.id] * GIB for node in asked if node.id in sizes}

    return actor_options([context], nodes, grows=grows, measure_gpus=measure)


def _with_memory(context: RunContext, gb: float, dtype: str = "float16") -> RunContext:
    needs = {**context.card.backends["diffusers"], "memory_bytes": int(gb * 1e9), "dtype": dtype}
    return replace(context, card=context.card.model_copy(update={"backends": {"diffusers": needs}}))


@pytest.mark.parametrize(
    ("backend", "gpus_there", "gpus"),
    [({}, 2, 1.0), ({}, 0, 0.0), ({"device": "cuda"}, 2, 1.0), ({"device": "cpu"}, 2, 0.0)],
)
def test_an_actor_takes_a_gpu_where_there_is_one_and_the_backend_uses_it(
    backend: dict[str, Any], gpus_there: int, gpus: float
) -> None:
    assert _options(context_of(backend), _node(GPU=gpus_there))["num_gpus"] == gpus


def test_an_actor_takes_as_many_cpus_as_its_backend_has_threads() -> None:
    assert _options(context_of({"threads": 4}), _node())["num_cpus"] == 4
    assert _options(context_of({"threads": 4}, cpus_per_actor=2), _node())["num_cpus"] == 2


def test_ray_never_restarts_or_retries_by_itself() -> None:
    options = _options(context_of(), _node())
    assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)


def test_what_no_node_can_hold_is_an_error_and_only_a_warning_where_nodes_may_join(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ClusterError, match=r"execution\.gpus_per_actor: 1 GPU wanted for an actor, the cluster has 0"):
        _options(context_of(gpus_per_actor=1), _node())
    with pytest.raises(ClusterError, match="16 CPU wanted for an actor, the cluster has 8"):
        _options(context_of(cpus_per_actor=16), _node("a"), _node("b"))

    assert _options(context_of(gpus_per_actor=1), _node(), grows=True)["num_gpus"] == 1
    assert "waiting for a node, up to execution.node_wait_s (600 s)" in caplog.text


def test_an_accelerator_and_custom_resources_are_asked_for_and_counted() -> None:
    context = context_of(accelerator_type="H100", resources={"tpu_slice": 2})
    node = _node(GPU=8, H100=1, tpu_slice=4)

    options = _options(context, node)
    needs = needs_of(options)

    assert options["accelerator_type"] == "H100"
    assert options["resources"] == {"tpu_slice": 2}
    assert options["num_gpus"] == 1
    assert room_for(needs, node.resources) == 2
    assert room_for(needs, _node(GPU=8, tpu_slice=4).resources) == 0


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"accelerator_type": "H10"}, r"accelerator_type: no node has H10, did you mean H100\? \(change it, or set"),
        ({"accelerator_type": "MI300"}, "no node has MI300, there are H100, L4"),
        ({"resources": {"tpu_slices": 1}}, r"resources\.tpu_slices: 1 .* the cluster has 0, did you mean tpu_slice\?"),
        ({"resources": {"tpu_slice": 9}}, r"resources\.tpu_slice: 9 tpu_slice wanted for an actor, the cluster has 4"),
    ],
)
def test_a_name_that_no_node_has_is_answered_with_one_that_is_there(execution: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        _options(context_of(**execution), _node("a", GPU=1, H100=1, tpu_slice=4), _node("b", GPU=1, L4=1))


@pytest.mark.parametrize(
    ("weights_gb", "gpu_gib", "share"),
    [(2.1, 24, 0.3333), (6.9, 24, 0.5), (6.9, 80, 0.25), (57.7, 80, 1.0), (1.0, 8, 1.0), (1.0, 141, 0.25)],
)
def test_actors_share_a_gpu_as_far_as_weights_activations_and_contexts_fit(
    weights_gb: float, gpu_gib: int, share: float
) -> None:
    """6.9 GB of weights take 6.4 + 4 + 1 GiB; at most four share a GPU however small the model is."""
    context = _with_memory(context_of(), weights_gb)
    node = _node("a", GPU=1)

    options = _options(context, node, a=gpu_gib)

    assert options["num_gpus"] == share
    assert room_for(needs_of(options), node.resources) == int(1 / share)


def test_the_smallest_gpu_that_an_actor_may_get_decides() -> None:
    small, large = _node("small", GPU=1, L4=1), _node("large", GPU=1, H100=1)

    on_any, on_large = context_of(), context_of(accelerator_type="H100")

    assert _options(_with_memory(on_any, 6.9), small, large, small=24, large=80)["num_gpus"] == 0.5
    assert _options(_with_memory(on_large, 6.9), small, large, small=24, large=80)["num_gpus"] == 0.25


def test_a_gpu_that_cannot_say_its_size_is_known_by_its_name_or_taken_whole() -> None:
    context = _with_memory(context_of(), 6.9)

    assert _options(context, _node(GPU=1, H100=1))["num_gpus"] == 0.25
    assert _options(context, _node(GPU=1))["num_gpus"] == 1


def test_a_model_larger_than_the_gpu_takes_it_whole_and_says_what_would_mend_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small, large = _node("small", GPU=1, L4=1), _node("large", GPU=1, H100=1)

    options = _options(_with_memory(context_of(), 30), small, large, small=24, large=80)

    assert options["num_gpus"] == 1
    assert "needs about 36 GiB" in caplog.text
    assert "has 24 GiB (execution.accelerator_type: H100 has 80; or backend.offload: model)" in caplog.text


def test_offloaded_weights_do_not_bind_and_float32_doubles_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _options(_with_memory(context_of({"offload": "model"}), 300), _node("a", GPU=1), a=24)["num_gpus"] == 1
    assert caplog.text == ""

    assert _options(_with_memory(context_of({"dtype": "float32"}), 6.9), _node("a", GPU=1), a=40)["num_gpus"] == 0.5
    assert _options(_with_memory(context_of(), 6.9), _node("a", GPU=1), a=40)["num_gpus"] == 0.3333


def test_no_actor_spans_two_gpus() -> None:
    assert room_for({"GPU": 0.4}, {"GPU": 2.0}) == 4
    assert room_for({"GPU": 0.3333}, {"GPU": 2.0}) == 6
    assert room_for({"GPU": 0.5}, {"GPU": 1.5}) == 3
    assert room_for({"GPU": 2.0}, {"GPU": 5.0}) == 2
