"""A workflow that passes the published schema of GitHub's workflows, and whose steps run the job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.emit.conftest import DAILY, Emit, Refuse
from tests.support.emit.stand_in import ENDINGS, count_starts, ends_in_turn
from tests.support.jobs import MakeJob

VARIANTS: dict[str, tuple[str, ...]] = {
    "by hand": (),
    "daily": (*DAILY, "--secret", "AWS_SECRET_ACCESS_KEY", "--secret", "HF_TOKEN"),
    "elsewhere": ("--runs-on", "gpu", "--timeout-minutes", "4000", "--install", "avbatch @ git+https://example.org/x"),
    "odd words": ("--set", "description='it''s 100% $HOME: #1'"),
}


def _load(emitted: dict[str, str]) -> dict[str, Any]:
    (text,) = emitted.values()
    workflow: dict[str, Any] = yaml.safe_load(text)
    return workflow


def test_every_workflow_passes_the_published_schema(emit: Emit, tmp_path: Path) -> None:
    paths = []
    for name, options in VARIANTS.items():
        path = tmp_path / f"{name}.yml"
        (text,) = emit("github-actions", *options).values()
        path.write_text(text, encoding="utf-8")
        paths.append(str(path))

    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_a_schedule_is_of_its_time_zone_and_runs_wait_for_each_other(emit: Emit) -> None:
    workflow = _load(emit("github-actions", *DAILY))

    assert workflow["on"]["schedule"] == [{"cron": "0 3 * * *", "timezone": "Europe/Berlin"}]
    assert workflow["concurrency"] == {"group": "avbatch-small", "cancel-in-progress": False}
    assert workflow["permissions"] == {"contents": "read"}


def test_output_ending_in_a_slash_is_a_folder(emit: Emit, tmp_path: Path) -> None:
    emit("github-actions", "--output", f"{tmp_path}/.github/workflows/")
    emit("github-actions", "--output", tmp_path / "mine.yml")

    assert (tmp_path / ".github" / "workflows" / "avbatch-small.yml").is_file()
    assert (tmp_path / "mine.yml").is_file()


def test_the_run_is_told_to_stop_before_github_ends_the_job(emit: Emit) -> None:
    job = _load(emit("github-actions", "--timeout-minutes", "60", "--secret", "HF_TOKEN"))["jobs"]["run"]

    step = job["steps"][-1]
    (seconds,) = map(int, re.findall(r'--preserve-status "\$\(\((\d+) - SECONDS\)\)s"', step["run"]))
    assert seconds + 120 <= (60 - 10) * 60 and job["timeout-minutes"] == 60
    assert step["env"] == {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}


def test_its_step_runs_the_job_from_the_root_of_the_repository(make_job: MakeJob, emit: Emit, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    (repository / "specs").mkdir(parents=True)
    (repository / ".git").mkdir()
    (repository / "prompts.txt").write_text("a fox\n", encoding="utf-8")
    spec = repository / "specs" / "my job.yaml"
    data = make_job(prompts={"source": "../prompts.txt"}, output={"path": "s3://bucket/run"})
    spec.write_text(yaml.safe_dump(data), encoding="utf-8")
    workflow = _load(emit("github-actions", spec=spec))

    command = workflow["jobs"]["run"]["steps"][-1]["run"].replace(" || ", f" --set output.path={tmp_path}/out || ", 1)

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["bash", "-e", "-c", command], cwd=repository, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "manifest.parquet").is_file()


@pytest.mark.parametrize(("codes", "starts", "code"), ENDINGS)
def test_its_step_starts_a_run_again_after_4_and_70_alone(
    codes: Sequence[int], starts: int, code: int, emit: Emit, tmp_path: Path
) -> None:
    programs = ends_in_turn(tmp_path, codes)
    script = _load(emit("github-actions"))["jobs"]["run"]["steps"][-1]["run"].replace("sleep 60", "sleep 0")

    done = subprocess.run(
        ["bash", "-e", "-c", script], env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, check=False
    )

    assert (count_starts(tmp_path), done.returncode) == (starts, code)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "output.path=runs/one"), "would be lost: a runner keeps nothing"),
        (
            ("--cron", "*/4 * * * *", "--set", "output.path=s3://b/{{ scheduled_at }}"),
            "more often than the every 5 min",
        ),
        (("--secret", "GITHUB_TOKEN"), "GitHub has no secrets that begin with GITHUB_"),
        (("--timeout-minutes", "5"), "leaves the run no time"),
        (("--set", "prompts.template=${{ prompt }}"), "which GitHub takes for an expression"),
    ],
)
def test_what_github_would_not_take_is_refused(options: tuple[str, ...], said: str, refuse: Refuse) -> None:
    assert said in refuse("github-actions", *options)


def test_files_outside_of_the_repository_are_refused(job: Path, refuse: Refuse) -> None:
    (job.parent / ".git").mkdir()
    (job.parent.parent / "other.txt").write_text("a fox\n", encoding="utf-8")

    assert "lies outside of the repository" in refuse("github-actions", "--set", "prompts.source=../other.txt")
