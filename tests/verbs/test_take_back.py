"""A run that ends before anything came of it leaves its output to the next spec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.openai_server import OpenAIServer, refuses, running_server

NO_MODEL = refuses(404, "no model x", "model_not_found")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def job_on(server: OpenAIServer, make_job: MakeJob, model: str) -> dict[str, Any]:
    backend = {"kind": "openai", "base_url": server.base_url, "served_model": model, "retries": 0}
    return make_job(backend=backend, execution={"batch_size": 2, "shard_size": 4, "max_attempts": 1})


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_run_of_which_nothing_came_gives_way_to_another_spec_and_says_so(
    layout: str, server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    spec, folder = tmp_path / "job.yaml", tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    output = {"path": str(folder), "layout": layout}
    spec.write_text(yaml.safe_dump({**job_on(server, make_job, "x"), "output": output}))
    server.misbehave(*[NO_MODEL] * 40)

    failed = CliRunner().invoke(app, ["run", str(spec)])
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    server.faults.clear()
    spec.write_text(yaml.safe_dump({**job_on(server, make_job, "y"), "output": output}))
    other = CliRunner().invoke(app, ["run", str(spec)])

    assert (failed.exit_code, other.exit_code) == (3, 0)
    assert left == {"notes.txt"}
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_run_with_a_finished_row_stays(server: OpenAIServer, make_job: MakeJob, tmp_path: Path) -> None:
    server.misbehave(refuses(400, "no such size"), *[NO_MODEL] * 40)
    with pytest.raises(DependencyError):
        run(job_on(server, make_job, "x"))
    server.faults.clear()

    with pytest.raises(SpecError, match=r"holds another run.*no row of it has succeeded, so its folder may be removed"):
        run(job_on(server, make_job, "y"))
    assert run(job_on(server, make_job, "x")).succeeded == 19


def test_a_run_that_an_earlier_command_began_stays(server: OpenAIServer, make_job: MakeJob, tmp_path: Path) -> None:
    """Another driver may be at work on it."""
    job = job_on(server, make_job, "x")
    run({**job, "execution": {**job["execution"], "budget": {"wall_s": 1e-9}}})
    server.misbehave(*[NO_MODEL] * 40)

    with pytest.raises(DependencyError):
        run(job)

    assert (tmp_path / "run/run.json").exists()
