"""The same pixels however a job ran; and whatever changes pixels is detected and named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.diff import DiffReport, diff
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob

pytestmark = pytest.mark.model

PROMPTS = [
    "a large red circle on a white background",
    "a small blue square on a black background",
    "a large green triangle on a yellow background",
]


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> dict[str, Any]:
    """Six pictures of the embedded model in two shards, of two steps each."""
    return make_job(
        model="avbatch/shapes64",
        backend={"kind": "diffusers"},
        prompts={"source": PROMPTS},
        params={"steps": 2, "seed": 3},
        samples_per_prompt=2,
        execution={"executor": "inline", "batch_size": 2, "shard_size": 4},
        output={"path": str(tmp_path / "run")},
    )


def _changed(job: dict[str, Any], section: str, **fields: Any) -> dict[str, Any]:
    output = {**job["output"], "path": job["output"]["path"] + "-changed"}
    job = {**job, "output": output}
    return {**job, section: {**job[section], **fields}}


def _pixels(opened: Run) -> dict[str, str]:
    manifest: pa.Table = opened.table()
    assert set(manifest["status"].to_pylist()) == {"ok"}
    return dict(zip(manifest["request_id"].to_pylist(), manifest["pixel_sha256"].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_executor_actors_layout_storage_and_a_resume_change_no_pixel(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)
    reference = _pixels(open_run(tmp_path / "run"))
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "two actors, tars": ({"executor": "ray", "actors": 2}, {"layout": "webdataset"}),
        "Parquet in memory": ({}, {"layout": "parquet", "path": "memory://reproducibility"}),
        "WebP, larger shards": (
            {"shard_size": 6, "writer_threads": 1},
            {"image_format": "webp", "embed_metadata": False},
        ),
    }

    for way, (execution, output) in ways.items():
        output = {"path": str(tmp_path / way), **output}
        run({**job, "execution": {**job["execution"], **execution}, "output": output})
        assert _pixels(open_run(output["path"])) == reference, way
    for part in ("manifest/00001-a0.parquet", "manifest.parquet"):  # as a crash leaves it
        (tmp_path / "run" / part).unlink()
    assert run(job).generated == 2
    assert _pixels(open_run(tmp_path / "run")) == reference


def _diff_after(job: dict[str, Any], section: str, **fields: Any) -> DiffReport:
    run(job)
    changed = _changed(job, section, **fields)
    run(changed)
    return diff(job["output"]["path"], changed["output"]["path"])


CHANGES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "scheduler": ("backend", {"scheduler": "EulerDiscreteScheduler"}, "identity", "backend.diffusers.scheduler"),
    "dtype": ("backend", {"dtype": "bfloat16"}, "identity", "backend.diffusers.dtype"),
    "threads": ("backend", {"threads": 2}, "identity", "backend.diffusers.threads"),
    "batch size": ("execution", {"batch_size": 1}, "identity", "execution.batch_size"),
    "prompt order": ("prompts", {"source": PROMPTS[::-1]}, "prompts", "prompt dataset"),
    "template": ("prompts", {"template": "{{ prompt }} "}, "identity", "prompts.template"),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("change", CHANGES)
def test_one_thing_that_is_changed_is_named_by_diff(job: dict[str, Any], change: str) -> None:
    section, fields, kind, name = CHANGES[change]

    report = _diff_after(job, section, **fields)

    named = [(found.kind, found.name) for found in report.changes if found.kind in ("identity", "prompts")]
    assert named == [(kind, name)]
    assert report.paired == 6


def test_a_byte_of_the_weights_is_named_by_verify_and_refused_by_rerun(
    job: dict[str, Any], copied_model: Path, tmp_path: Path
) -> None:
    run({**job, "backend": {**job["backend"], "model_path": str(copied_model)}})
    weights = copied_model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40  # the exponent of the last half float
    weights.write_bytes(data)

    report = verify(tmp_path / "run", sample=None)

    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert [change.name for change in report.changes if change.kind == "weights"] == [name]
    assert report.exit_code == 1
    with pytest.raises(SpecError, match=rf"{name} was \w+ and is \w+ \(put them back, or accept the others"):
        rerun(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert rerun(tmp_path / "run", tmp_path / "again", accept_weights=True).exit_code == 0
    assert [
        change.name for change in diff(tmp_path / "run", tmp_path / "again").changes if change.kind == "weights"
    ] == [name]


@pytest.fixture
def deterministic_torch() -> Iterator[None]:
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_a_switch_of_torch_is_named_by_verify(
    job: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run(job)
    request.getfixturevalue("deterministic_torch")

    report = verify(tmp_path / "run", sample=2)

    assert [change.name for change in report.changes] == ["backend.switches.deterministic_algorithms"]


def test_an_interrupted_and_audited_run_of_the_model_verifies_bit_by_bit(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)

    report = verify(tmp_path / "run", sample=None)

    assert (report.identical, len(report.rows), report.changes, report.exit_code) == (6, 6, (), 0)
    assert audit(tmp_path / "run").findings == ()
