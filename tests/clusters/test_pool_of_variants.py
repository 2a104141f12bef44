"""The real driver on a simulated cluster, where a model of one variant cannot be loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.errors import AbstractVisionError, ClusterError, DependencyError, StorageError
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.ray.cluster import Call, WorkerLostError
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.spending import SpendingGuard
from benchmarks.simulate_cluster import make_context
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.simulated_nodes import Durations, SimulatedWorker

SHARDS = 30
VARIANTS = ("good", "bad", "other")

#: What becomes of a load of variant 1.
Load = Callable[["_Cluster", SimulatedWorker, Call], None]


class _Cluster(SimulatedCluster):
    load_bad: Callable[[SimulatedWorker, Call], None]

    def load(self, worker: Any, variant: int) -> Call:
        if variant != VARIANTS.index("bad"):
            return super().load(worker, variant)
        call = next(self._numbers)
        self._forget_model(worker)
        worker.variant = variant
        self.loads[worker.name, variant] += 1
        self.load_bad(worker, call)
        return call


def _fail(error: AbstractVisionError) -> Load:
    return lambda cluster, worker, call: cluster._answer(call, error)


def _die(cluster: _Cluster, worker: SimulatedWorker, call: Call) -> None:
    worker.loading = call
    cluster._take_away(worker, WorkerLostError("its process ended"))


def _run(folder: Path, load_bad: Load) -> tuple[ActorPool, list[int], _Cluster]:
    context = make_context(folder, actors=4, requests=SHARDS * 16, shard_size=16)
    cluster = _Cluster(1, {"CPU": 8.0, "GPU": 8.0}, shard_rows=lambda shard: 16, durations=Durations())
    cluster.load_bad = partial(load_bad, cluster)
    done: list[int] = []

    def note(summary: ShardSummary) -> None:
        done.append(summary.shard)

    guard = SpendingGuard(context.spec.execution, rows=dict.fromkeys(range(SHARDS), 16))
    variants = [(replace(context, variant=name), range(number, SHARDS, 3)) for number, name in enumerate(VARIANTS)]
    pool = ActorPool(cluster, variants, Control(Interrupts(), guard, on_shard=note))
    while pool.step():
        pass
    pool.close()
    return pool, sorted(done), cluster


def test_a_model_that_is_missing_on_a_worker_ends_its_variant_and_the_worker_takes_another(tmp_path: Path) -> None:
    pool, done, cluster = _run(tmp_path, _fail(DependencyError("no such model")))

    assert done == [shard for shard in range(SHARDS) if shard % 3 != 1]
    assert [str(error) for error in pool.errors] == ["variant bad: no such model"]
    assert cluster.messages["worker start"] == 2 * 4  # two messages each: none was replaced
    assert all(times == 1 for times in cluster.loads.values())


def test_a_model_that_kills_workers_while_it_loads_ends_its_variant_alone(tmp_path: Path) -> None:
    pool, done, _ = _run(tmp_path, _die)

    assert done == [shard for shard in range(SHARDS) if shard % 3 != 1]
    (error,) = pool.errors
    assert isinstance(error, ClusterError)
    assert str(error).startswith("variant bad: 3 workers died while they loaded avbatch/procedural")


def test_a_store_that_is_down_ends_all_variants_once_what_runs_is_done(tmp_path: Path) -> None:
    pool, done, _ = _run(tmp_path, _fail(StorageError("s3: down", transient=True)))

    assert len(done) < SHARDS / 2
    with pytest.raises(StorageError, match="s3: down"):
        raise pool.errors[0]
