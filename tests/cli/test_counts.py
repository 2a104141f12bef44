"""The counts of a run, which every command says in the same words."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.runs.counts import Counts
from abstractvision_batch.runs.listing import read_run_state
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.submit.jobs import Job, JobStatus
from abstractvision_batch.submit.ray_jobs import RayJob
from abstractvision_batch.text.to_json import to_json
from tests.support.jobs import MakeJob

KEYS = {*(field.name for field in fields(Counts)), *Counts.also_json}


def answer(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, [*map(str, arguments), "--json"]).stdout)
    return found


@pytest.fixture
def spec(make_job: MakeJob, tmp_path: Path) -> Path:
    """A run of 60 requests with every sort of row: the brake ended it after 16, and one of those was reworded."""
    rows = [{"id": f"p{number}", "prompt": f"a rude dog {number}"} for number in range(60)]
    job = make_job(
        backend={"kind": "procedural", "fail_when": "rude"},
        prompts={"source": rows},
        samples_per_prompt=1,
        execution={"executor": "inline", "batch_size": 4, "shard_size": 20, "budget": {"requests": 60}},
    )
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert answer("run", path)["attempts"] == 16
    rows[0]["prompt"] = "a polite dog"
    job["execution"]["budget"]["requests"] = 16  # so that nothing more is run
    path.write_text(yaml.safe_dump(job))
    return path


def test_run_status_runs_jobs_and_audit_say_the_same_counts_of_a_run(spec: Path, tmp_path: Path) -> None:
    ran, run = answer("run", spec, "--extend"), tmp_path / "run"

    counts = {name: ran[name] for name in KEYS}
    assert counts == {
        **{"requests": 61, "shards": 4, "shards_done": 0, "not_done": 45, "not_run": 4},
        **{"succeeded": 0, "failed": 15, "superseded": 1, "attempts": 16, "unpriced_attempts": 16, "cost_usd": None},
        **{"by_error_kind": {"generation": 15}, "by_error_class": {"permanent": 15}},
    }
    ray = RayJob("id", "failed", "", "", {}, datetime.now(UTC), None, 1, None)
    job = JobStatus(Job(ray), read_run_state(open_store(str(run))), None, None)
    said = {
        "status": answer("status", run),
        "runs": answer("runs", tmp_path)["runs"][0],
        "jobs": to_json(job)["progress"],
        "audit": answer("audit", run),
        "retry": answer("retry", run, "--where", "prompt = 'none'"),
    }
    assert {name: {key: found[key] for key in KEYS} for name, found in said.items()} == dict.fromkeys(said, counts)


def test_an_audit_of_a_run_that_was_ended_names_every_shard_that_is_not_done(spec: Path, tmp_path: Path) -> None:
    """The first shard left a part with rows that were not run; the others left none."""
    found = answer("audit", tmp_path / "run")
    printed = CliRunner().invoke(app, ["audit", str(tmp_path / "run")]).stdout

    assert (found["left_shards"], found["complete"]) == ([0, 1, 2], False)
    assert "requests   60: 0 succeeded, 16 failed, 44 left" in printed
    assert "not done   shards 0, 1, 2\n" in printed


def test_the_documentation_names_the_counts() -> None:
    page = (Path(__file__).parents[2] / "docs/storage.md").read_text()
    table = page.partition("## Counts of a run")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == KEYS
