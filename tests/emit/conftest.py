"""What the tests of `avbatch emit` share: a job on disk, and the command that emits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from tests.support.jobs import MakeJob

#: Emits the job for a target: the text of each file by its name, or what was said where it is refused.
Emit = Callable[..., dict[str, str]]
Refuse = Callable[..., str]

DAILY = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--set", "output.path=s3://bucket/{{ date }}")


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> Path:
    """A spec in a folder, with its prompts in a file beside it, and an output on storage."""
    spec = make_job(prompts={"source": "prompts/animals.txt"}, output={"path": "s3://bucket/run"}, samples_per_prompt=1)
    (tmp_path / "jobs" / "prompts").mkdir(parents=True)
    (tmp_path / "jobs" / "prompts" / "animals.txt").write_text("a fox\na cat\n", encoding="utf-8")
    path = tmp_path / "jobs" / "job.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


@pytest.fixture
def emit(job: Path) -> Emit:
    def call(target: str, *options: str | Path, spec: Path = job) -> dict[str, str]:
        done = CliRunner().invoke(app, ["emit", target, str(spec), *map(str, options), "--json"])
        assert done.exit_code == 0, done.output
        answer: dict[str, Any] = json.loads(done.stdout)
        return {file["name"]: file["text"] for file in answer["files"]}

    return call


@pytest.fixture
def refuse(job: Path) -> Refuse:
    def call(target: str, *options: str | Path, spec: Path = job) -> str:
        done = CliRunner().invoke(app, ["emit", target, str(spec), *map(str, options)])
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.stderr
        return done.stderr

    return call
