"""A few requests of the first batch are generated alone as well: a run whose engine mixes a batch stops at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends import ProceduralBackendConfig, ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.errors import BatchingFaultError
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.types import VisionRequest
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob


class OneForwardPass(ProceduralVisionBackend):
    """Claims one forward pass for a batch, and may let each request have its neighbour's picture."""

    def __init__(self, *, mixes: bool, fail_when: str | None = None) -> None:
        super().__init__(ProceduralBackendConfig(fail_when=fail_when))
        self.mixes = mixes
        self.batches: list[int] = []

    def batch_tolerance_db(self) -> float | None:
        return 40.0

    def generate_batch(self, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        self.batches.append(len(requests))
        items = super().generate_batch(requests, **options)
        return [*items[1:], items[0]] if self.mixes else items


def _run_shards(job: dict[str, Any], backend: OneForwardPass, *shards: int) -> None:
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    runner = ShardRunner(build_context(loaded, store, start_run(loaded, store).plan), backend)
    for shard in shards:
        runner.run_shard(shard)
    runner.close()


def test_a_backend_that_mixes_a_batch_ends_the_run_before_anything_is_committed(
    make_job: MakeJob, tmp_path: Path
) -> None:
    expected = (
        r"batch canary: request \w+ is another picture in its batch of 2 than alone \(PSNR .*execution.batch_size=1"
    )

    with pytest.raises(BatchingFaultError, match=expected) as found:
        _run_shards(make_job(), OneForwardPass(mixes=True), 0)

    assert found.value.exit_code == 3
    assert not (tmp_path / "run" / "canary.json").exists()
    assert not list((tmp_path / "run").glob("manifest/*"))


class CutsABatch(OneForwardPass):
    """Gives smaller pictures where a batch has several requests."""

    def generate_batch(self, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        smaller = [replace(request, width=16) if len(requests) > 1 else request for request in requests]
        return super().generate_batch(smaller, **options)


def test_a_picture_of_another_size_than_alone_is_a_fault_of_batching_too(make_job: MakeJob) -> None:
    with pytest.raises(BatchingFaultError, match=r"PSNR 0\.0 dB, .*largest difference 255 of 255"):
        _run_shards(make_job(), CutsABatch(mixes=False), 0)


def test_the_record_says_how_many_shared_the_pass_though_one_of_them_failed(make_job: MakeJob, tmp_path: Path) -> None:
    backend = OneForwardPass(mixes=False, fail_when="dog")

    _run_shards(make_job(prompts={"source": ["a dog", "a fox"]}, samples_per_prompt=1), backend, 0)

    record = json.loads((tmp_path / "run" / "canary.json").read_text())
    assert (record["batch_size"], [one["slot"] for one in record["requests"]]) == (2, [1])


def test_the_first_batch_alone_is_checked_once_and_its_figures_are_kept(make_job: MakeJob, tmp_path: Path) -> None:
    first, again = OneForwardPass(mixes=False), OneForwardPass(mixes=False)

    _run_shards(make_job(), first, 0, 1)
    _run_shards(make_job(), again, 0)

    assert first.batches == [2, 1, 1, 2, 2, 2]
    assert again.batches == [2, 2]
    record = json.loads((tmp_path / "run" / "canary.json").read_text())
    assert (record["batch_size"], record["tolerance_db"]) == (2, 40.0)
    assert [(one["slot"], one["psnr_db"], one["max_difference"]) for one in record["requests"]] == [
        (0, None, 0),
        (1, None, 0),
    ]


def test_the_canary_can_be_left_out(make_job: MakeJob, tmp_path: Path) -> None:
    backend = OneForwardPass(mixes=True)

    _run_shards(make_job(execution={"batch_size": 2, "shard_size": 4, "batch_canary": False}), backend, 0)

    assert backend.batches == [2, 2]


def test_a_backend_that_runs_requests_one_by_one_needs_none(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())

    assert not (tmp_path / "run" / "canary.json").exists()


@pytest.mark.model
def test_the_embedded_model_keeps_a_request_as_it_is_in_any_batch(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(
        model="avbatch/shapes64",
        backend={"kind": "diffusers"},
        prompts={"source": ["a large red circle on a white background", "a small blue square on a black background"]},
        params={"steps": 2, "width": 64, "height": 64, "seed": 1},
        samples_per_prompt=2,
        execution={"batch_size": 4, "executor": "inline"},
    )

    assert run(job).exit_code == 0

    record = json.loads((tmp_path / "run" / "canary.json").read_text())
    assert len(record["requests"]) == 2
    assert all(one["psnr_db"] is None or one["psnr_db"] > 60 for one in record["requests"])
