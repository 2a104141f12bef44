"""A spec's lock file, and jobs that are held to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.lock import lock, lock_path, require_locked
from tests.support.jobs import MakeJob


@pytest.fixture
def spec(make_job: MakeJob, tmp_path: Path) -> Path:
    """A locked spec whose prompts are a file."""
    (tmp_path / "prompts.txt").write_text("a fox\nan owl\n")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job(prompts={"source": "prompts.txt"})))
    lock(load_job(path))
    return path


def _refused(spec: Path) -> str:
    with pytest.raises(SpecError) as caught:
        require_locked(load_job(spec))
    assert caught.value.exit_code == 2
    return str(caught.value)


def _edit_lock(spec: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(lock_path(spec).read_text())
    edit(data)
    lock_path(spec).write_text(json.dumps(data))


def test_a_job_that_is_as_it_was_locked_runs(spec: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(spec), "--locked", "--json"])

    assert json.loads(done.stdout)["succeeded"] == 8


def test_a_changed_prompt_file_is_refused_by_name(spec: Path) -> None:
    (spec.parent / "prompts.txt").write_text("a fox\nan eel\n")

    assert "job.lock.json: prompts: " in _refused(spec)


def test_a_changed_field_is_refused_and_one_that_changes_no_pixel_is_not(spec: Path) -> None:
    require_locked(load_job(spec, overrides=["execution.actors=2"]))

    with pytest.raises(SpecError, match="a field that changes pixels is not what it was"):
        require_locked(load_job(spec, overrides=["params.seed=8"]))


def test_another_version_of_a_package_is_refused_by_name(spec: Path) -> None:
    def older(data: dict[str, Any]) -> None:
        data["software"]["packages"]["numpy"] = "1.0"

    _edit_lock(spec, older)

    assert "job.lock.json: packages.numpy: 1.0 locked, " in _refused(spec)


def test_a_missing_or_damaged_lock_file_says_how_to_write_it(spec: Path) -> None:
    lock_path(spec).write_text("{")
    assert f"(avbatch lock {spec} writes it again)" in _refused(spec)
    lock_path(spec).unlink()
    refused = CliRunner().invoke(app, ["run", str(spec), "--locked"])
    assert refused.exit_code == 2
    assert f"No such file or directory (avbatch lock {spec} writes it)" in refused.stderr


@pytest.mark.model
def test_a_byte_of_the_weights_is_refused_by_the_files_name(
    make_job: MakeJob, tmp_path: Path, copied_model: Path
) -> None:
    path = tmp_path / "job.yaml"
    job = make_job(model="avbatch/shapes64", backend={"kind": "diffusers", "model_path": str(copied_model)})
    path.write_text(yaml.safe_dump({**job, "params": {"steps": 2}}))
    lock(load_job(path))
    weights = copied_model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    assert "job.lock.json: weights: model/unet/diffusion_pytorch_model.safetensors: " in _refused(path)


@pytest.mark.model
def test_where_only_a_clusters_workers_load_the_weights_the_rest_is_held_to_the_lock(
    make_job: MakeJob, tmp_path: Path, copied_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.yaml"
    job = make_job(model="avbatch/shapes64", backend={"kind": "diffusers", "model_path": str(copied_model)})
    path.write_text(yaml.safe_dump({**job, "params": {"steps": 2}}))
    lock(load_job(path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

    require_locked(load_job(path, overrides=["execution.executor=ray"]))

    with pytest.raises(SpecError, match="a field that changes pixels"):
        require_locked(load_job(path, overrides=["execution.executor=ray", "params.steps=3"]))
