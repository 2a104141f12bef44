"""Jobs of several Ray actors on one server: its limit is the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.openai_server import running_server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

THREE_ACTORS = {"executor": "ray", "actors": 3, "batch_size": 4, "shard_size": 4, "cpus_per_actor": 0.5}


@pytest.mark.slow
def test_all_actors_together_have_as_many_requests_in_flight_as_the_job_allows(
    make_job: MakeJob, tmp_path: Path
) -> None:
    with running_server(delay_s=0.1) as server:
        backend: dict[str, Any] = {"kind": "openai", "base_url": server.base_url, "max_concurrency": 4}
        result = run(make_job(backend=backend, samples_per_prompt=8, execution=THREE_ACTORS))

    workers = pq.read_table(tmp_path / "run/manifest.parquet")["worker"].to_pylist()
    assert (result.succeeded, result.failed) == (40, 0)
    assert len(set(workers)) > 1
    assert server.most_in_flight == 4
