"""What `execution.executor: auto` chooses: by addresses, by the GPUs of the machine, by what a job can use."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.execute import executor_choice
from abstractvision_batch.execute.executor_choice import choose_executor, count_gpus
from abstractvision_batch.execute.ray.address import INSIDE_JOB
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

VARIABLES = ("RAY_ADDRESS", INSIDE_JOB, "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
LOCAL = {"model": "avbatch/shapes64", "backend": {"kind": "diffusers"}, "params": {"steps": 1}}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(executor_choice, "NVIDIA_FILES", tmp_path / "no-nvidia")
    monkeypatch.setattr(executor_choice, "AMD_FILES", tmp_path / "no-amd")
    monkeypatch.setattr(sys, "platform", "linux")


def put_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, gpus: int, *, exit_code: int = 0) -> None:
    """Put an `nvidia-smi` on PATH that lists so many GPUs, of which each is cut in two."""
    lines = [f"GPU {n}: NVIDIA H100 (UUID: GPU-{n})\n  MIG 1g.10gb Device 0: (UUID: MIG-{n})\n" for n in range(gpus)]
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    (folder / "listed").write_text("".join(lines))
    program.write_text(f'#!/bin/sh\n[ "$1" = --list-gpus ] || exit 9\ncat {folder}/listed\nexit {exit_code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def choose(make_job: MakeJob, **sections: Any) -> tuple[str, str]:
    choice = choose_executor(load_job(make_job(**{**LOCAL, **sections})).spec)
    return choice.executor, choice.why


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [(0, ("inline", "no GPU here")), (1, ("inline", "one GPU here")), (8, ("ray", "8 GPUs here"))],
)
def test_ray_is_chosen_where_there_are_more_gpus_than_one(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, chosen: tuple[str, str]
) -> None:
    put_gpus(monkeypatch, tmp_path / str(gpus), gpus)

    assert choose(make_job) == chosen
    assert choose(make_job, execution={"executor": "inline"})[0] == "inline"
    assert choose(make_job, execution={"executor": "ray"})[0] == "ray"


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"backend": {"kind": "diffusers", "device": "cpu"}}, "the job asks for no GPU"),
        ({"backend": {"kind": "diffusers", "device": "cuda:1"}}, "backend.device is cuda:1"),
        ({"execution": {"gpus_per_actor": 0}}, "the job asks for no GPU"),
        ({"model": "avbatch/procedural", "backend": {"kind": "procedural"}}, "the job asks for no GPU"),
        (
            {"model": "gpt-image-2", "backend": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}, "params": {}},
            "the job asks for no GPU",
        ),
    ],
)
def test_a_job_that_cannot_use_several_gpus_stays_in_this_process(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sections: dict[str, Any], why: str
) -> None:
    put_gpus(monkeypatch, tmp_path / "eight", 8)

    assert choose(make_job, **sections) == ("inline", why)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert choose(make_job, **sections) == ("ray", "RAY_ADDRESS is set")


def test_an_address_of_the_spec_means_ray(make_job: MakeJob) -> None:
    assert choose(make_job, execution={"address": "head:6379"}) == ("ray", "execution.address is set")
    assert choose(make_job, execution={"address": "local"}) == ("ray", "execution.address is set")


def test_without_ray_several_gpus_are_left_unused_and_the_reason_says_how_to_use_them(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_gpus(monkeypatch, tmp_path / "two", 2)
    found = importlib.util.find_spec
    monkeypatch.setattr(executor_choice, "find_spec", lambda name: None if name == "ray" else found(name))

    executor, why = choose(make_job)

    assert executor == "inline"
    assert why.startswith("2 GPUs here, but Ray is not")
    assert 'pip install "abstractvision_batch[ray]"' in why


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("", 0), ("-1", 0), ("0", 1), ("0,1,2", 3), ("GPU-1, GPU-3", 2), ("1,9,2", 1), ("NoDevFiles", 1)],
)
def test_gpus_that_the_environment_hides_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, gpus: int
) -> None:
    put_gpus(monkeypatch, tmp_path / "four", 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert count_gpus() == gpus


def test_the_drivers_files_count_where_there_is_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(executor_choice, "NVIDIA_FILES", tmp_path / "gpus")
    for name in ("0000:17:00.0", "0000:3d:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)

    assert count_gpus() == 2


def test_amds_gpus_count_and_its_processors_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(executor_choice, "AMD_FILES", tmp_path)
    for node, units in enumerate((0, 304, 304, 304)):
        (tmp_path / str(node)).mkdir()
        (tmp_path / str(node) / "properties").write_text(f"cpu_cores_count 0\nsimd_count {units}\n")
    put_gpus(monkeypatch, tmp_path / "none", 0)

    assert count_gpus() == 3
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,2")
    assert count_gpus() == 2


def test_a_driver_that_does_not_work_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_gpus(monkeypatch, tmp_path / "broken", 4, exit_code=9)

    assert count_gpus() == 0


def test_an_apple_machine_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")

    assert count_gpus() == 1


def test_counting_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from abstractvision_batch.execute.executor_choice import count_gpus; count_gpus(); "
        "print({'torch', 'ray', 'pynvml'} & set(sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_run_says_at_its_start_and_in_its_record_what_was_chosen_and_why(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job()))
    command = [sys.executable, "-m", "abstractvision_batch"]

    done = subprocess.run([*command, "run", str(tmp_path / "job.yaml")], capture_output=True, text=True, check=True)
    shown = subprocess.run([*command, "record", str(tmp_path / "run")], capture_output=True, text=True, check=True)

    assert done.stderr.count("executor: inline (the job asks for no GPU)\n") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["executor"] == {"executor": "inline", "why": "the job asks for no GPU"}
    assert record["spec"]["execution"]["executor"] == "auto"
    assert "executor     inline (the job asks for no GPU)" in shown.stdout
    assert not (tmp_path / "run" / "executor.json").exists()


@pytest.mark.ray
def test_ray_by_choice_writes_the_same_pixels_and_a_resume_on_it_is_recorded_next_to_the_record(
    make_job: MakeJob, tmp_path: Path, ray_cluster: None
) -> None:
    whole = run(make_job(output={"path": str(tmp_path / "inline")}))
    begun = make_job(execution={"batch_size": 2, "shard_size": 4, "budget": {"requests": 8}})
    assert run(begun).not_done == 12

    resumed = run(make_job(execution={"batch_size": 2, "shard_size": 4, "address": "local", "cpus_per_actor": 0.5}))

    assert resumed.complete
    pixels = [
        pq.read_table(f"{path}/manifest.parquet", columns=["request_id", "pixel_sha256"]).to_pylist()
        for path in (whole.path, resumed.path)
    ]
    assert pixels[0] == pixels[1]
    assert open_run(resumed.path).record.data["executor"]["executor"] == "inline"
    assert json.loads((tmp_path / "run" / "executor.json").read_text()) == {
        "executor": "ray",
        "why": "execution.address is set",
    }


@pytest.mark.slow  # a Ray of its own, and two models
@pytest.mark.ray
@pytest.mark.model
def test_a_machine_with_two_gpus_runs_a_local_model_on_ray_with_the_same_pixels(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = {**LOCAL, "prompts": {"source": ["a large red circle"]}, "samples_per_prompt": 2}
    inline = run(make_job(**job, output={"path": str(tmp_path / "inline")}))
    put_gpus(monkeypatch, tmp_path / "two", 2)

    on_ray = run(make_job(**job))

    assert on_ray.run.record.data["executor"] == {"executor": "ray", "why": "2 GPUs here"}
    assert on_ray.run.table()["pixel_sha256"].equals(inline.run.table()["pixel_sha256"])


@pytest.mark.ray
def test_a_ray_address_that_does_not_answer_is_an_error_and_not_a_reason_for_inline(
    make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job()))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(tmp_path / "job.yaml")]
    environ = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}

    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)

    assert done.returncode == 4
    assert "127.0.0.1:9: cannot connect" in done.stderr
    assert not list((tmp_path / "run").glob("manifest/*"))
