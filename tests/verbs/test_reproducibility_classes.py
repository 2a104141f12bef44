"""How far each row can be made again: what its backend promises, less where the batch was not the planned one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.errors import OutOfMemoryError
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.types import VisionRequest
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob
from tests.support.openai_server import OpenAIServer, running_server


class SmallMemory(ProceduralVisionBackend):
    """Two pictures fit, more do not."""

    def generate_batch(self, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        if len(requests) > 2:
            return [OutOfMemoryError("does not fit") for _ in requests]
        return super().generate_batch(requests, **options)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def _classes(path: Path) -> list[str | None]:
    found: list[str | None] = pq.read_table(path)["reproducibility"].to_pylist()
    return found


def test_a_batch_that_was_halved_is_perceptual_and_a_whole_one_bit_exact(make_job: MakeJob, tmp_path: Path) -> None:
    execution = {"batch_size": 4, "shard_size": 6}
    loaded = load_job(make_job(prompts={"source": list("abcdef")}, samples_per_prompt=1, execution=execution))
    store = loaded.open_output(writable=True)
    runner = ShardRunner(build_context(loaded, store, start_run(loaded, store).plan), SmallMemory())
    runner.run_shard(0)
    runner.close()

    assert _classes(tmp_path / "run/manifest/00000-a0.parquet") == ["perceptual"] * 4 + ["bit-exact"] * 2


@pytest.mark.parametrize(
    ("shape", "expected"), [("extended", "seeded-remote"), ("sd_server", "seeded-remote"), ("openai", "unseeded")]
)
def test_a_server_is_seeded_where_it_is_told_the_seed(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, shape: str, expected: str
) -> None:
    backend = {"kind": "openai", "base_url": server.base_url, "request_shape": shape}

    run(make_job(backend=backend, prompts={"source": ["a fox"]}, samples_per_prompt=2))

    assert _classes(tmp_path / "run/manifest.parquet") == [expected] * 2


def test_what_the_server_says_of_its_model_is_in_the_row(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    server.says = {"model": "a-model-2026-11-02", "system_fingerprint": "fp_44709d6fcb"}

    run(make_job(backend={"kind": "openai", "base_url": server.base_url}, prompts={"source": ["a fox"]}))

    row: dict[str, Any] = pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()[0]
    metadata = json.loads(row["metadata_json"])
    assert metadata["model"] == "avbatch/procedural"
    assert metadata["reported_model"] == "a-model-2026-11-02"
    assert metadata["system_fingerprint"] == "fp_44709d6fcb"


@pytest.mark.model
def test_kernels_that_are_chosen_by_timing_them_promise_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from abstractvision_batch.backends.huggingface_diffusers.torch_state import repeats_exactly

    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    assert [repeats_exactly(device, "none") for device in (cpu, cuda, mps)] == [True, True, False]
    assert [repeats_exactly(cpu, mode) for mode in ("default", "reduce-overhead", "max-autotune")] == [
        True,
        True,
        False,
    ]
    assert not repeats_exactly(cuda, "default")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert [repeats_exactly(device, "none") for device in (cpu, cuda)] == [True, False]
