"""A run of which every request fails in the same way stops after a few, by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.execute.brake import BRAKE_ROWS, Brake, Failure
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.openai_server import Fault, OpenAIServer, refuses, running_server

PROMPTS = [f"a picture of animal {number}" for number in range(200)]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def job_on(server: OpenAIServer, make_job: MakeJob, *, path: str = "/v1", **execution: Any) -> dict[str, Any]:
    backend = {"kind": "openai", "base_url": f"{server.url}{path}", "retries": 0}
    settings = {"max_attempts": 1, **execution}
    return make_job(backend=backend, prompts={"source": PROMPTS}, samples_per_prompt=1, execution=settings)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"batch_size": 200},
        {"batch_size": 4, "shard_size": 4},
        {"batch_size": 1},
        {"batch_size": 16, "shard_size": 16},
    ],
    ids=str,
)
def test_a_wrong_path_costs_a_handful_of_requests_of_200(
    cut: dict[str, Any], server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job_on(server, make_job, path="/wrong/v1", **cut)))

    ended = CliRunner().invoke(app, ["run", str(spec), "--json"])

    result = json.loads(ended.stdout)
    assert ended.exit_code == 1
    assert (result["succeeded"], result["failed"], len(server.posts)) == (0, BRAKE_ROWS, BRAKE_ROWS)
    assert result["not_done"] == 200 - BRAKE_ROWS
    assert f"the first {BRAKE_ROWS} requests all failed in the same way, generation: " in result["stopped"]
    assert "404" in result["stopped"] and "stop_when_all_fail: false" in result["stopped"]
    assert not audit(tmp_path / "run").complete


def test_a_stopped_run_goes_on_once_the_cause_is_fixed_and_stops_again_before(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    wrong, right = job_on(server, make_job, path="/wrong/v1"), job_on(server, make_job)
    first, second = run(wrong), run(wrong)

    fixed = run(right)
    retried = retry(tmp_path / "run", overrides=[f'backend.base_url="{server.base_url}"'])

    assert (first.failed, second.failed, second.generated) == (BRAKE_ROWS, 2 * BRAKE_ROWS, BRAKE_ROWS)
    assert (fixed.generated, fixed.failed, fixed.stopped, fixed.exit_code) == (200 - 2 * BRAKE_ROWS, 32, None, 1)
    assert (retried.succeeded, retried.exit_code) == (200, 0)
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.slow
def test_it_can_be_switched_off(server: OpenAIServer, make_job: MakeJob) -> None:
    result = run(job_on(server, make_job, path="/wrong/v1", stop_when_all_fail=False))

    assert (result.failed, result.stopped) == (200, None)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "fault",
    [refuses(400, "flagged", "content_policy_violation"), refuses(500, "oops")],
    ids=["policy", "passing"],
)
def test_refused_prompts_and_passing_failures_do_not_stop_a_run(
    fault: Fault, server: OpenAIServer, make_job: MakeJob
) -> None:
    server.misbehave(*[fault] * 40)

    result = run(job_on(server, make_job))

    assert (result.succeeded, result.failed, result.stopped) == (160, 40, None)


def test_one_success_or_another_failure_lets_a_run_go_for_good(server: OpenAIServer, make_job: MakeJob) -> None:
    server.misbehave(*[refuses(400, "no such size")] * 7, refuses(400, "no such steps"))
    server.misbehave(*[refuses(400, "no such size")] * 100)

    result = run(job_on(server, make_job))

    assert (result.succeeded, result.failed, result.stopped) == (92, 108, None)


def test_a_retry_runs_all_that_it_was_asked_for(make_job: MakeJob, tmp_path: Path) -> None:
    backend = {"kind": "procedural", "fail_when": "."}
    run(make_job(backend=backend, execution={"batch_size": 2, "shard_size": 4, "stop_when_all_fail": False}))

    assert retry(tmp_path / "run", overrides=["execution.stop_when_all_fail=true"]).generated == 20


@pytest.mark.parametrize(
    ("message", "same"),
    [
        (lambda number: f"404: Not Found [request req-{number:08x}]", True),
        (lambda number: f"400: no route for {PROMPTS[number]}", True),
        (lambda number: f"400: '{number * 'x'}' is not known after {number} ms", True),
        (lambda number: ("400: bad size", "400: bad steps")[number % 2], False),
    ],
)
def test_failures_are_the_same_whatever_numbers_ids_and_prompts_their_messages_hold(
    message: Callable[[int], str], same: bool
) -> None:
    brake = Brake()

    said = [brake.note(0, [Failure("generation", message(number), PROMPTS[number])]) for number in range(BRAKE_ROWS)]

    assert (said[-1] is not None) == same
    assert said[:-1] == [None] * (BRAKE_ROWS - 1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_on_ray_stops_too(make_job: MakeJob, tmp_path: Path) -> None:
    backend = {"kind": "procedural", "fail_when": "."}
    execution = {"executor": "ray", "actors": 2, "cpus_per_actor": 0.5, "batch_size": 2, "shard_size": 4}

    result = run(
        make_job(backend=backend, prompts={"source": PROMPTS}, samples_per_prompt=1, execution=execution, params={})
    )

    assert (result.succeeded, result.exit_code) == (0, 1)
    assert result.stopped is not None and "all failed in the same way" in result.stopped
    assert BRAKE_ROWS <= result.failed <= BRAKE_ROWS + 4
    assert open_run(tmp_path / "run").unfinished_rows() or result.not_done
