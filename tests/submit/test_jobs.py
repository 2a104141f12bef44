"""What is said of a submitted job by what Ray tells of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.submit.jobs import Job, choose_address
from abstractvision_batch.submit.ray_jobs import JobState, RayJob

FAILED = "Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n{log}"
BEGIN = (
    "2026-11-21 18:56:07,626\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job demo: exec python -m abstractvision_batch run job.yaml\n"
)


def _job(state: JobState, exit_code: int | None = None, message: str = "") -> Job:
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    ray = RayJob("demo-1", state, "exec python", message, {}, moment, moment, exit_code, None)
    return Job(ray)


def _failed(exit_code: int, log: str) -> Job:
    return _job("failed", exit_code, FAILED.format(code=exit_code, log=BEGIN + log))


@pytest.mark.parametrize("code", [1, 2, 3, 4, 130])
def test_a_job_that_failed_has_the_exit_code_of_its_run(code: int) -> None:
    assert _failed(code, "job.yaml:3:1: name: is missing\n").exit_code == code


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (_job("succeeded", 0), 0),
        (_job("stopped"), 130),
        (_job("running"), None),
        (_job("failed", None, "The actor died unexpectedly before finishing this task."), 4),
        (_failed(-9, "generate: 1/2 requests (50%)\n"), 4),
        (_failed(137, ""), 4),
    ],
)
def test_a_job_without_an_exit_code_of_its_run_has_the_one_that_fits(job: Job, code: int | None) -> None:
    assert job.exit_code == code


def test_a_job_shows_what_its_run_said_last_and_not_what_ray_said() -> None:
    job = _failed(2, "job.yaml:9:5: output.path: no such bucket\n1 problem; nothing was started\n")

    assert job.reason == ("job.yaml:9:5: output.path: no such bucket", "1 problem; nothing was started")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("/usr/bin/python: No module named abstractvision_batch\n", "no abstractvision_batch (.*--ship-package"),
        ("Traceback ...\nModuleNotFoundError: No module named 'typer'\n", "no typer (.*extras"),
        ("Traceback ...\nModuleNotFoundError: No module named 'google.cloud'\n", "no google (.*extras"),
        ("/bin/sh: 1: exec: python: not found\n", "no python (.*PATH"),
    ],
)
def test_a_cluster_that_lacks_what_runs_the_job_is_a_missing_dependency(log: str, said: str) -> None:
    job = _failed(1, log)

    assert job.exit_code == 3
    assert len(job.reason) == 1
    begin, _, end = said.partition("(.*")
    assert begin in job.reason[0] and end in job.reason[0]


def test_a_job_that_never_ran_says_why() -> None:
    job = _job("failed", None, "runtime_env setup failed: no such package: nonsense")

    assert job.reason == ("runtime_env setup failed: no such package: nonsense",)
    assert job.exit_code == 4


def test_the_states_of_ray_that_end_a_job_are_those_that_have_an_exit_code() -> None:
    states: list[JobState] = ["pending", "running", "stopped", "succeeded", "failed"]

    assert [replace(_job("running").ray, state=state).ended for state in states] == [False, False, True, True, True]


def test_an_address_is_the_first_that_is_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

    assert choose_address(None, "http://of-spec:8265/") == "http://of-spec:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://of-ray:8265")
    assert choose_address(None, "http://of-spec:8265") == "http://of-ray:8265"
    assert choose_address("https://given") == "https://given"


def test_no_address_and_one_that_is_no_url_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    with pytest.raises(SpecError, match="no cluster is named"):
        choose_address(None, "auto")
    with pytest.raises(SpecError, match="--address head:8265: is not the URL"):
        choose_address("head:8265")
