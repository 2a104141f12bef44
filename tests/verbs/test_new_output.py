"""A run whose output holds another one goes beside it when asked to."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import choose_output
from tests.support.jobs import MakeJob


def test_each_other_run_gets_the_next_number_and_the_same_run_its_own_again(make_job: MakeJob, tmp_path: Path) -> None:
    chosen = []
    for seed in (1, 2, 3, 2, 1):
        result = run(choose_output(load_job(make_job(params={"width": 16, "height": 16, "seed": seed}))))
        chosen.append((Path(result.path).name, result.generated))

    assert chosen == [("run", 20), ("run-2", 20), ("run-3", 20), ("run-2", 0), ("run", 0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2", "run-3"]


def test_a_url_is_numbered_too(make_job: MakeJob) -> None:
    url = f"memory://{uuid.uuid4().hex}/run"
    run(make_job(output={"path": url}))

    other = load_job(make_job(output={"path": f"{url}/"}, samples_per_prompt=1))

    assert choose_output(other).spec.output.path == f"{url}-2"


def test_the_command_goes_beside_another_run_only_when_it_is_asked_to(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(samples_per_prompt=1)))
    run(make_job())
    with pytest.raises(SpecError, match="--new-run"):
        run(spec)

    refused = CliRunner().invoke(app, ["run", str(spec), "--quiet"])
    asked = CliRunner().invoke(app, ["run", str(spec), "--new-run"])

    assert (refused.exit_code, asked.exit_code) == (2, 0)
    assert str(tmp_path / "run-2") in asked.stdout
    assert (tmp_path / "run-2/manifest.parquet").exists()
