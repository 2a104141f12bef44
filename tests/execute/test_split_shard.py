"""A shard that several workers generate in parts and one of them commits."""

from __future__ import annotations

from contextlib import closing

import pyarrow.parquet as pq

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob


def test_rows_of_a_worker_that_died_are_left_to_do_and_the_shard_is_committed_once(make_job: MakeJob) -> None:
    loaded = load_job(make_job())
    store = loaded.open_output(writable=True)
    context = build_context(loaded, store, start_run(loaded, store).plan)
    with closing(ShardRunner(context, ProceduralVisionBackend())) as runner:
        rows = runner.read_rows(0)
        done = runner.generate_rows(rows.table.to_pylist()[:3])

        first = runner.commit(rows, done.results, shard=0)
        part = store.read("manifest/00000-a0.parquet")
        second = runner.commit(rows, done.results, shard=0)

    assert done.ended is None
    assert (first.succeeded, first.failed, first.not_run, first.committed) == (3, 0, 1, True)
    assert (second.succeeded, second.committed) == (3, False)
    assert store.read("manifest/00000-a0.parquet") == part
    with store.open("manifest/00000-a0.parquet") as stream:
        found = pq.read_table(stream).to_pylist()
    assert [(row["status"], row["attempts"]) for row in found] == [("ok", 1)] * 3 + [("not_run", 0)]
