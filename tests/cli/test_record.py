"""`avbatch record`: what a run recorded, for people and for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import abstractvision_batch
from abstractvision_batch.cli.app import app
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


def _record(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["record", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_what_workers_of_two_environments_differ_in_is_shown(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(make_job())
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run(make_job())

    text = _record(str(tmp_path / "run"))
    found = json.loads(_record(str(tmp_path / "run"), "--json"))

    assert re.search(r"^environment  [0-9a-f]{12}, 16 rows: .*cpu, float32, .*numpy", text, re.MULTILINE)
    assert re.search(r"variables\.OMP_NUM_THREADS: 1 in [0-9a-f]{12}, 2 here", text)
    assert "started by   avbatch" in text
    assert sorted(environment["rows"] for environment in found["environments"].values()) == [4, 16]
    assert found["weights"] is None


@pytest.mark.model
def test_the_weights_of_a_run_are_shown_with_their_digest(make_job: MakeJob, tmp_path: Path) -> None:
    model = Path(abstractvision_batch.__file__).parent / "models/shapes64"
    job = make_job(
        model="avbatch/shapes64",
        backend={"kind": "diffusers", "model_path": str(model)},
        params={"seed": 1, "steps": 1},
        prompts={"source": ["a large red circle"]},
        samples_per_prompt=1,
    )
    run(job)

    text = _record(str(tmp_path / "run"))

    assert re.search(r"^weights      [0-9a-f]{64}$", text, re.MULTILINE)
    assert re.search(rf"^             model: {re.escape(str(model))}, \d+ files, \d\.\d MB$", text, re.MULTILINE)
    assert re.search(r"^environment  [0-9a-f]{12}, 1 row: .*, cpu, float32, 1 thread, .*torch", text, re.MULTILINE)
