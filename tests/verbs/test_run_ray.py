"""Whole jobs on a local Ray cluster: the same rows and pixels as in this process, whatever dies."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import ClusterError, DependencyError
from abstractvision_batch.runs.columns import PLAN_SCHEMA
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

IDENTITY = [*PLAN_SCHEMA.names, "status", "error_kind", "file_name", "sha256", "pixel_sha256", "reproducibility"]
ON_RAY = {"executor": "ray", "batch_size": 2, "shard_size": 4, "cpus_per_actor": 0.5}


def _manifest(path: str | Path) -> pa.Table:
    return pq.read_table(Path(path) / "manifest.parquet")


def test_ray_and_inline_write_the_same_manifest(make_job: MakeJob, tmp_path: Path) -> None:
    inline = run(make_job(output={"path": str(tmp_path / "inline")}))
    on_ray = run(make_job(execution=ON_RAY))

    assert on_ray.succeeded == 20
    assert _manifest(on_ray.path).select(IDENTITY) == _manifest(inline.path).select(IDENTITY)


@pytest.mark.slow
def test_many_actors_share_the_shards(make_job: MakeJob) -> None:
    result = run(make_job(backend={"kind": "procedural", "delay_s": 0.05}, execution={**ON_RAY, "actors": 3}))

    rows = _manifest(result.path).to_pylist()
    assert len({row["worker"] for row in rows}) > 1
    (environment,) = Path(result.path, "environments").iterdir()  # alike workers are one
    assert {row["environment_id"] for row in rows} == {environment.stem}


@pytest.mark.slow
def test_a_failing_request_is_a_row_on_ray_too(make_job: MakeJob) -> None:
    result = run(make_job(backend={"kind": "procedural", "fail_when": "dog"}, execution=ON_RAY))

    assert (result.succeeded, result.failed, result.by_error_kind) == (16, 4, {"generation": 4})


def test_a_request_that_kills_its_worker_is_one_failed_row(make_job: MakeJob, tmp_path: Path) -> None:
    """The crash is `os._exit`, which no try statement sees; everything beside it must still be generated.

    The budget is ample: what each dead worker may have spent is counted, and the pieces of its shard too.
    """
    prompts = [f"picture {number}" for number in range(7)] + ["poison"]
    job = make_job(prompts={"source": prompts}, samples_per_prompt=1, execution={**ON_RAY, "actors": 1})
    inline = {"executor": "inline", "batch_size": 2, "shard_size": 4}
    healthy = run({**job, "execution": inline, "output": {"path": str(tmp_path / "healthy")}})

    execution = {**job["execution"], "budget": {"requests": 100}}
    result = run({**job, "backend": {"kind": "procedural", "crash_when": "poison"}, "execution": execution})

    rows = _manifest(result.path).to_pylist()
    assert result.by_error_kind == {"worker_crashed": 1}
    assert [row["prompt"] for row in rows if row["status"] == "failed"] == ["poison"]
    pixels = _manifest(healthy.path)["pixel_sha256"].to_pylist()
    assert [row["pixel_sha256"] for row in rows[:7]] == pixels[:7]


@pytest.mark.slow
def test_threads_of_an_actor_without_a_gpu_are_those_of_the_spec(make_job: MakeJob) -> None:
    """Ray sets OMP_NUM_THREADS to the actor's CPUs, which PyTorch would take; here they are others."""
    job = make_job(
        model="avbatch/shapes64",
        backend={"kind": "diffusers", "threads": 2, "device": "cpu"},
        prompts={"source": ["a red circle"]},
        params={"steps": 1},
        samples_per_prompt=1,
        execution={"executor": "ray", "cpus_per_actor": 1, "batch_size": 1, "batch_canary": False},
    )

    result = run(job)

    (environment,) = (json.loads(path.read_text()) for path in Path(result.path, "environments").iterdir())
    assert environment["variables"]["OMP_NUM_THREADS"] == "1"
    assert environment["backend"]["switches"]["torch_threads"] == 2


@pytest.mark.slow
def test_pictures_never_cross_the_object_store(make_job: MakeJob) -> None:
    """Five pictures of 3 MB each as pixels; all that Ray keeps for the run is what the driver told its workers."""

    def stored_bytes() -> int:
        import ray
        from ray._private.internal_api import node_stats

        (node,) = ray.nodes()
        stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
        return int(stats.store_stats.cumulative_created_bytes)

    before = stored_bytes()
    run(make_job(params={"width": 1024, "height": 1024, "seed": 7}, samples_per_prompt=1, execution=ON_RAY))

    assert 0 < stored_bytes() - before < 200_000


@pytest.mark.slow
def test_an_interrupted_ray_run_is_finished_inline(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job(execution=ON_RAY))
    whole = _manifest(tmp_path / "run")
    for shard in (1, 3):
        (tmp_path / f"run/manifest/{shard:05d}-a0.parquet").unlink()

    again = run(make_job())

    assert again.generated == 8
    assert _manifest(tmp_path / "run").select(IDENTITY) == whole.select(IDENTITY)


def test_more_cpus_for_an_actor_than_the_cluster_has_is_an_error(make_job: MakeJob) -> None:
    with pytest.raises(ClusterError, match="64 CPU wanted for an actor, the cluster has 2"):
        run(make_job(execution={**ON_RAY, "cpus_per_actor": 64}))


def test_a_model_that_is_missing_on_the_worker_is_our_own_error(make_job: MakeJob, tmp_path: Path) -> None:
    backend = {"kind": "diffusers", "model_path": str(tmp_path / "nowhere")}
    job = make_job(model="avbatch/shapes64", backend=backend, params={"seed": 1}, execution=ON_RAY)

    with pytest.raises(DependencyError, match="nowhere"):
        run(job)
