"""A client of Ray's Jobs API against a dashboard that fails, forgets, or is none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from abstractvision_batch.errors import ClusterError, SpecError
from abstractvision_batch.submit import ray_jobs
from abstractvision_batch.submit.jobs import find_job, wait_for_job
from abstractvision_batch.submit.ray_jobs import RayJobs

VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
JOB: dict[str, Any] = {
    "type": "SUBMISSION",
    "submission_id": "demo-1",
    "status": "RUNNING",
    "entrypoint": "exec python",
    "metadata": {"avbatch": "0.1.0", "avbatch_output": "s3://bucket/run"},
}


@dataclass
class Dashboard:
    """Answers by path; a list is taken one answer at a time, its last one for good. An int is a status without more."""

    answers: dict[str, Any]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    delay_s: float = 0.0

    def answer(self, path: str) -> Any:
        self.asked.append(path)
        time.sleep(self.delay_s)
        found = self.answers.get(path, 404)
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the client would set it for the whole process
    board = Dashboard({"/api/version": VERSION})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = board.answer(self.path)
            said = "Job demo does not exist." if found == 404 else "it failed"
            status, body = (found, said) if isinstance(found, int) else (200, found)
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            with suppress(BrokenPipeError):  # of who did not wait
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    board.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield board
    server.shutdown()
    server.server_close()


def test_a_dashboard_that_fails_for_a_moment_is_asked_again(dashboard: Dashboard) -> None:
    ended = {**JOB, "status": "SUCCEEDED", "driver_exit_code": 0}
    dashboard.answers["/api/jobs/demo-1"] = [JOB, 500, 502, ended]

    job = wait_for_job(RayJobs(dashboard.address), "demo-1", poll_s=0.01)

    assert (job.exit_code, job.output) == (0, "s3://bucket/run")


def test_a_job_that_the_cluster_forgot_ends_the_wait(dashboard: Dashboard) -> None:
    dashboard.answers["/api/jobs/demo-1"] = [JOB, 404]

    with pytest.raises(ClusterError, match="knows no job demo-1 any more"):
        wait_for_job(RayJobs(dashboard.address), "demo-1", poll_s=0.01)


def test_an_unknown_job_is_told_with_the_nearest_and_a_foreign_one_is_refused(dashboard: Dashboard) -> None:
    dashboard.answers["/api/jobs/"] = [JOB, {**JOB, "submission_id": "demo-2", "metadata": {}}]
    dashboard.answers["/api/jobs/"] = [dashboard.answers["/api/jobs/"]]
    dashboard.answers["/api/jobs/demo-2"] = {**JOB, "submission_id": "demo-2", "metadata": {}}
    cluster = RayJobs(dashboard.address)

    with pytest.raises(SpecError, match=r"no job demo-3 \(did you mean demo-1\?\)"):
        find_job(cluster, "demo-3")
    with pytest.raises(SpecError, match="avbatch did not submit the job demo-2"):
        find_job(cluster, "demo-2")


@pytest.mark.parametrize("answer", ["<html>hello</html>", {"hello": 1}, 404, 500])
def test_another_server_is_told_from_a_dashboard_in_one_line(dashboard: Dashboard, answer: Any) -> None:
    dashboard.answers["/api/version"] = answer

    with pytest.raises(ClusterError, match=dashboard.address) as caught:
        RayJobs(dashboard.address)

    assert "\n" not in str(caught.value)


def test_answers_that_are_no_jobs_are_one_line(dashboard: Dashboard) -> None:
    dashboard.answers["/api/jobs/demo-1"] = {"hello": 1}

    with pytest.raises(ClusterError, match=dashboard.address) as caught:
        RayJobs(dashboard.address).find("demo-1")

    assert "\n" not in str(caught.value)


def test_the_address_that_is_given_wins_over_the_variable_of_ray(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")

    RayJobs(dashboard.address)

    assert "/api/version" in dashboard.asked


def test_a_server_that_does_not_answer_in_time_ends_the_request(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "READ_TIMEOUT_S", 0.2)
    dashboard.delay_s = 1.0

    with pytest.raises(ClusterError, match="no answer in time"):
        RayJobs(dashboard.address)
