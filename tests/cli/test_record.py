"""`avbatch record`: what a run recorded, for people and for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import abstractvision_batch
from abstractvision_batch.cli.app import app
from abstractvision_batch.run import run
from abstractvision_batch.spec.load import spec_from_mapping
from abstractvision_batch.start import open_output, start_run
from tests.jobs import MakeJob


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


def test_the_weights_of_a_run_are_shown_before_it_generated_anything(make_job: MakeJob, tmp_path: Path) -> None:
    model = Path(abstractvision_batch.__file__).parent / "models/shapes64"
    job: dict[str, Any] = make_job(
        model="avbatch/shapes64", backend={"kind": "diffusers", "model_path": str(model)}, params={"seed": 1}
    )
    loaded = spec_from_mapping(job)
    start_run(loaded, open_output(loaded))

    text = _record(str(tmp_path / "run"))

    assert re.search(r"^weights      [0-9a-f]{64}$", text, re.MULTILINE)
    assert re.search(rf"^             model: {re.escape(str(model))}, \d+ files, \d\.\d MB$", text, re.MULTILINE)
    assert "environment  " not in text
