from __future__ import annotations

from typing import Any

import pytest

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.placement import actor_options, number_of_actors
from abstractvision_batch.plan.summary import PlanSummary
from abstractvision_batch.spec.load import spec_from_mapping

PLAN = PlanSummary(
    requests=1,
    shards=1,
    batches=1,
    prompts=1,
    matrix_points=1,
    samples_per_prompt=1,
    batch_size=1,
    shard_size=1,
    prompts_digest="",
    prompts_files=(),
    files=(),
)


def _context(backend: dict[str, Any] | None = None, **execution: Any) -> RunContext:
    loaded = spec_from_mapping(
        {
            "name": "a",
            "model": "avbatch/shapes64",
            "backend": {"kind": "diffusers", **(backend or {})},
            "prompts": {"source": ["x"]},
            "output": {"path": "x"},
            "execution": execution,
        }
    )
    return RunContext(url="x", spec=loaded.spec, backend=loaded.backend, card=loaded.card, plan=PLAN)


@pytest.mark.parametrize(
    ("backend", "resources", "gpus"),
    [
        ({}, {"CPU": 8, "GPU": 2}, 1.0),
        ({}, {"CPU": 8}, 0.0),
        ({"device": "cuda"}, {"CPU": 8, "GPU": 2}, 1.0),
        ({"device": "cpu"}, {"CPU": 8, "GPU": 2}, 0.0),
    ],
)
def test_an_actor_takes_a_gpu_where_there_is_one_and_the_backend_uses_it(
    backend: dict[str, Any], resources: dict[str, float], gpus: float
) -> None:
    assert actor_options(_context(backend), resources)["num_gpus"] == gpus


def test_an_actor_takes_as_many_cpus_as_its_backend_has_threads() -> None:
    assert actor_options(_context({"threads": 4}), {"CPU": 8})["num_cpus"] == 4
    assert actor_options(_context({"threads": 4}, cpus_per_actor=2), {"CPU": 8})["num_cpus"] == 2


def test_ray_never_restarts_or_retries_by_itself() -> None:
    options = actor_options(_context(), {"CPU": 8})
    assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)


def test_what_no_node_can_hold_is_an_error_unless_the_cluster_may_grow() -> None:
    with pytest.raises(ClusterError, match=r"execution\.gpus_per_actor: 1 GPU wanted for an actor, the cluster has 0"):
        actor_options(_context(gpus_per_actor=1), {"CPU": 8})
    assert actor_options(_context(gpus_per_actor=1, address="ray://head:10001"), {"CPU": 8})["num_gpus"] == 1


@pytest.mark.parametrize(
    ("execution", "resources", "shards", "actors"),
    [
        ({}, {"CPU": 8}, 100, 8),
        ({}, {"CPU": 8}, 3, 3),
        ({}, {"CPU": 8, "GPU": 2}, 100, 2),
        ({"gpus_per_actor": 0.5}, {"CPU": 8, "GPU": 2}, 100, 4),
        ({"actors": 20}, {"CPU": 8}, 100, 20),
        ({"cpus_per_actor": 0.5}, {"CPU": 2}, 100, 4),
    ],
)
def test_auto_fills_the_cluster_with_at_most_one_actor_per_shard(
    execution: dict[str, Any], resources: dict[str, float], shards: int, actors: int
) -> None:
    context = _context(**execution)
    options = actor_options(context, resources)
    assert number_of_actors(context, resources, options, shards=shards) == actors


def test_a_server_has_no_more_actors_than_keep_it_busy_and_at_least_two() -> None:
    server = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1"}
    resources = {"CPU": 64.0}

    def actors(**more: Any) -> int:
        context = _context({**server, **more})
        return number_of_actors(context, resources, actor_options(context, resources), shards=1000)

    assert actors() == 2
    assert actors(max_concurrency=1) == 2
    assert actors(max_concurrency=128) == 8
    assert actors(max_concurrency=1024) == 64
