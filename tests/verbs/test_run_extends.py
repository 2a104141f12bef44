"""Jobs of a spec that extends another: whatever reads, ships or repeats them has both files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.lock import lock, require_locked
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


@pytest.fixture
def spec(make_job: MakeJob, tmp_path: Path) -> Path:
    """A spec of two lines over one in another folder."""
    _write_base(tmp_path, make_job(samples_per_prompt=1))
    path = tmp_path / "specs/child.yaml"
    path.parent.mkdir()
    path.write_text("extends: ../base.yaml\nparams: {steps: 3}\n")
    return path


def _write_base(folder: Path, job: dict[str, Any]) -> None:
    (folder / "base.yaml").write_text(yaml.safe_dump(job))


def test_a_run_records_the_merged_spec_and_is_repeated_without_the_files(spec: Path, tmp_path: Path) -> None:
    run(load_job(spec))
    recorded = open_run(tmp_path / "run").record
    spec.unlink()
    (tmp_path / "base.yaml").unlink()

    again = rerun(tmp_path / "run", tmp_path / "again")

    assert (recorded.spec.params.steps, recorded.spec.params.width, recorded.spec.extends) == (3, 32, None)
    assert recorded.data["spec_path"] == str(spec)
    assert again.succeeded == 5


def test_a_changed_base_is_another_job_for_the_lock_file_and_the_run(
    spec: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    lock(load_job(spec))
    require_locked(load_job(spec))
    run(load_job(spec))
    _write_base(tmp_path, make_job(samples_per_prompt=1, matrix={"guidance_scale": [2]}))

    with pytest.raises(SpecError, match="a field that changes pixels is not what it was"):
        require_locked(load_job(spec))
    with pytest.raises(SpecError, match="matrix"):
        run(load_job(spec))


@pytest.mark.parametrize("target", ["kubernetes", "slurm", "github-actions"])
def test_what_is_emitted_has_both_files_or_their_place(spec: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / ".git").mkdir()
    given = ["--set", "output.path=s3://bucket/run"]
    result = CliRunner().invoke(app, ["emit", target, str(spec), *given, *MORE.get(target, [])])

    assert result.exit_code == 0, result.output
    assert "specs/child.yaml" in result.output
    if target == "kubernetes":
        assert "samples_per_prompt: 1" in result.output and "extends: ../base.yaml" in result.output


MORE = {"kubernetes": ["--image", "example/avbatch:1"]}
