"""Schedulers of single requests, in one job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

SCHEDULERS: list[Any] = ["DPM++ 2M", {"name": "DDIM", "timestep_spacing": "leading"}]


def _pixels(make_job: MakeJob, output: Path, **fields: Any) -> list[str]:
    settings: dict[str, Any] = {
        "model": "avbatch/shapes64",
        "backend": {"kind": "diffusers"},
        "params": {"steps": 3, "seed": 5},
        "prompts": {"source": ["a red circle", "a blue square"]},
        "execution": {"executor": "inline", "batch_size": 4, "shard_size": 8},
        "output": {"path": str(output)},
        "samples_per_prompt": 1,
    }
    result = run(make_job(**(settings | fields)))
    assert result.failed == 0
    table = pq.read_table(output / "manifest.parquet")
    return [str(value) for value in table["pixel_sha256"].to_pylist()]


@pytest.mark.model
def test_schedulers_of_one_job_give_the_pixels_of_a_job_of_each(make_job: MakeJob, tmp_path: Path) -> None:
    together = _pixels(make_job, tmp_path / "swept", matrix={"scheduler": SCHEDULERS})
    alone = [
        pixels
        for number, scheduler in enumerate(SCHEDULERS)
        for pixels in _pixels(make_job, tmp_path / str(number), backend={"kind": "diffusers", "scheduler": scheduler})
    ]

    assert together == alone
    assert len(set(together)) == 4
