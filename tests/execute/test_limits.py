"""What takes too long becomes a failed row, and a run of which too much fails stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem, ProgressCallback
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import GenerationCancelledError, SpecError
from abstractvision_batch.execute.limits import FailureLimit
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.types import VisionRequest
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob

SMALL = {"batch_size": 2, "shard_size": 4}


class StuckOnDogs(ProceduralVisionBackend):
    """Generates a batch at once, and never comes back from one with a dog unless it is cancelled.

    The first `heals_after` dogs alone do so; it raises, where other backends answer items.
    """

    def __init__(self, heals_after: int = 1_000_000) -> None:
        super().__init__()
        self.heals_after = heals_after
        self.batches: list[int] = []

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Callable[[], bool] | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        self.batches.append(len(requests))
        if any("dog" in (request.prompt or "") for request in requests) and self.heals_after > 0:
            self.heals_after -= 1
            assert cancelled is not None
            while not cancelled():
                time.sleep(0.005)
            raise GenerationCancelledError("cancelled")
        return super().generate_batch(requests, cancelled=cancelled, on_step=on_step)


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


def _begun(job: dict[str, Any]) -> dict[str, Any]:
    """The job, begun without its time limits: with them, nobody can begin a run that is not on Ray."""
    limits = dict.fromkeys(("request_timeout_s", "shard_timeout_s"))
    loaded = load_job({**job, "execution": {**job["execution"], **limits}})
    start_run(loaded, loaded.open_output(writable=True))
    return job


def _run_shard(job: dict[str, Any], backend: ProceduralVisionBackend) -> list[dict[str, Any]]:
    loaded = load_job(_begun(job))
    store = loaded.open_output(writable=True)
    runner = ShardRunner(build_context(loaded, store, start_run(loaded, store).plan), backend)
    runner.run_shard(0)
    runner.close()
    with store.open("manifest/00000-a0.parquet") as stream:
        rows: list[dict[str, Any]] = pq.read_table(stream).to_pylist()
    return rows


def test_a_request_that_hangs_is_a_failed_row_and_its_batch_mate_is_generated(make_job: MakeJob) -> None:
    job = make_job(
        prompts={"source": ["a fox", "a dog", "a cat", "an owl"]},
        samples_per_prompt=1,
        execution={**SMALL, "request_timeout_s": 0.05, "max_attempts": 1},
    )
    backend = StuckOnDogs()

    rows = _run_shard(job, backend)

    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok"]
    assert rows[1]["error_kind"] == "timeout"
    assert "execution.request_timeout_s (0.05)" in rows[1]["error_message"]
    assert [row["reproducibility"] for row in rows] == ["perceptual", None, "bit-exact", "bit-exact"]
    assert backend.batches == [2, 1, 1, 2]


def test_a_request_that_hung_once_is_tried_again(make_job: MakeJob) -> None:
    job = make_job(prompts={"source": ["a dog"]}, samples_per_prompt=1, execution={**SMALL, "request_timeout_s": 0.05})

    rows = _run_shard(job, StuckOnDogs(heals_after=1))

    assert [(row["status"], row["attempts"]) for row in rows] == [("ok", 2)]


def test_a_request_whose_batch_hung_was_tried_twice_and_its_lone_picture_is_no_longer_bit_exact(
    make_job: MakeJob,
) -> None:
    execution = {**SMALL, "request_timeout_s": 0.05, "max_attempts": 1}
    job = make_job(prompts={"source": ["a fox", "a dog"]}, samples_per_prompt=1, execution=execution)

    rows = _run_shard(job, StuckOnDogs(heals_after=1))

    assert [(row["status"], row["attempts"], row["reproducibility"]) for row in rows] == [("ok", 2, "perceptual")] * 2


def test_when_a_shard_has_had_its_time_the_rest_of_it_fails_and_the_run_goes_on(make_job: MakeJob) -> None:
    job = make_job(
        backend={"kind": "procedural", "delay_s": 0.8},
        prompts={"source": ["a fox", "a cat"]},
        execution={**SMALL, "shard_timeout_s": 1.2},
    )
    result = run(_begun(job))

    rows = _rows(result.path)
    assert (result.requests, result.exit_code) == (8, 1)
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "failed"] * 2
    assert {row["error_kind"] for row in rows if row["status"] == "failed"} == {"timeout"}
    assert [row["attempts"] for row in rows] == [1, 1, 0, 0] * 2
    assert [row["latency_s"] == 0.0 for row in rows] == [False, False, True, True] * 2
    assert "execution.shard_timeout_s (1.2)" in rows[3]["error_message"]
    assert retry(result.path, overrides=["execution.shard_timeout_s=null", "backend.delay_s=0"]).exit_code == 0


def test_limits_that_nothing_reaches_change_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    plain = run(make_job())
    limits = {"request_timeout_s": 100, "shard_timeout_s": 100.5, "max_failed": 0}
    limited = run(_begun(make_job(output={"path": str(tmp_path / "limited")}, execution={**SMALL, **limits})))

    columns = ["request_id", "status", "pixel_sha256", "reproducibility", "attempts"]
    tables = [pa.Table.from_pylist(_rows(result.path)).select(columns) for result in (plain, limited)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("max_failed", [2, 0.1])
def test_a_run_of_which_too_much_fails_stops_and_goes_on_once_the_limit_is_raised(
    make_job: MakeJob, tmp_path: Path, max_failed: float
) -> None:
    """The dogs are the third of five shards; 2 of 20 requests may fail."""
    job = make_job(backend={"kind": "procedural", "fail_when": "dog"}, execution={**SMALL, "max_failed": max_failed})

    stopped = run(job)
    again = run(job)
    raised = run({**job, "execution": {**SMALL, "max_failed": 4}})

    assert (stopped.succeeded, stopped.failed, stopped.exit_code, stopped.interrupted) == (8, 4, 1, False)
    assert stopped.stopped is not None
    assert f"4 of 20 requests failed, more than execution.max_failed ({max_failed:g}) allows" in stopped.stopped
    assert (again.generated, again.stopped) == (0, stopped.stopped)
    assert (raised.generated, raised.stopped, raised.succeeded, raised.failed) == (8, None, 16, 4)
    assert audit(tmp_path / "run").findings == ()


def test_a_run_that_reaches_its_limit_with_the_last_shard_is_complete(make_job: MakeJob) -> None:
    result = run(make_job(backend={"kind": "procedural", "fail_when": "bee"}, execution={**SMALL, "max_failed": 0}))

    assert (result.stopped, result.failed, result.exit_code) == (None, 4, 1)
    assert len(_rows(result.path)) == 20


def test_a_retry_stops_when_too_much_of_what_it_retries_fails_again(make_job: MakeJob, tmp_path: Path) -> None:
    """12 of 20 failed, in shards of 4; the limit says nothing of those that are not retried."""
    run(make_job(backend={"kind": "procedural", "fail_when": "fox|cat|dog"}))

    stopped = retry(tmp_path / "run", where="prompt <> 'a dog'", overrides=["execution.max_failed=0.25"])
    healed = retry(tmp_path / "run", overrides=["execution.max_failed=1", "backend.fail_when=null"])

    assert (stopped.generated, stopped.failed) == (4, 12)
    assert stopped.stopped is not None
    assert "4 of 8 requests failed" in stopped.stopped
    assert (healed.stopped, healed.failed) == (None, 0)


@pytest.mark.parametrize(("max_failed", "allowed"), [(0, 0), (3, 3), (0.25, 5), (0.99, 19), (1_000, 20), (None, 20)])
def test_a_share_is_of_all_requests(max_failed: float | None, allowed: int) -> None:
    limit = FailureLimit(max_failed, requests=20, before=0)

    assert [failed for failed in range(21) if limit.reached(failed)] == list(range(allowed + 1, 21))


@pytest.mark.parametrize("value", [-1, 1.0, 0.0, "5%"])
def test_a_limit_that_is_neither_count_nor_share_is_refused(make_job: MakeJob, value: object) -> None:
    with pytest.raises(SpecError, match=r"execution\.max_failed"):
        load_job(make_job(execution={**SMALL, "max_failed": value}))


def test_the_command_says_why_it_stopped_and_ends_with_1(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(backend={"kind": "procedural", "fail_when": "dog"})))
    call = ["run", str(spec), "--set", "execution.max_failed=0.05"]

    stopped = CliRunner().invoke(app, call)
    as_json = CliRunner().invoke(app, [*call, "--json"])

    assert (stopped.exit_code, as_json.exit_code) == (1, 1)
    assert "running again resumes" in stopped.stdout
    assert json.loads(as_json.stdout)["stopped"] in stopped.stdout


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_a_worker_that_hangs_for_good_is_ended_and_the_request_isolated(make_job: MakeJob) -> None:
    """The hang is one that no cancel reaches, as in native code."""
    execution = {"executor": "ray", "batch_size": 1, "shard_size": 1, "cpus_per_actor": 0.5, "actors": 1}
    result = run(
        make_job(
            prompts={"source": ["a fox", "a dog", "a cat"]},
            samples_per_prompt=1,
            backend={"kind": "procedural", "hang_when": "dog"},
            execution={**execution, "request_timeout_s": 0.5},
        )
    )

    assert [row["status"] for row in _rows(result.path)] == ["ok", "failed", "ok"]
    assert result.by_error_kind == {"worker_crashed": 1}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_a_run_of_which_too_much_fails_stops(make_job: MakeJob, tmp_path: Path) -> None:
    execution = {**SMALL, "executor": "ray", "cpus_per_actor": 0.5, "actors": 1, "max_failed": 1}
    job = make_job(backend={"kind": "procedural", "fail_when": ".", "delay_s": 0.1}, execution=execution)

    stopped = run(job)
    resumed = run({**job, "backend": {"kind": "procedural"}, "execution": SMALL})

    assert stopped.stopped is not None
    assert 4 <= stopped.failed < 20
    assert resumed.succeeded == 20 - stopped.failed
    assert audit(tmp_path / "run").findings == ()


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_time_limits_are_refused_where_nothing_could_end_what_hangs(
    verb: str, make_job: MakeJob, tmp_path: Path
) -> None:
    limits = {"request_timeout_s": 2, "shard_timeout_s": 4}
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(execution={**SMALL, **limits})))

    ended = CliRunner().invoke(app, [verb, str(spec)])

    assert ended.exit_code == 2
    assert "execution.request_timeout_s: nothing can end what hangs in this process" in ended.stderr
    assert "execution.shard_timeout_s: nothing can end what hangs in this process" in ended.stderr
    assert ended.stderr.count("execution.executor: ray") == 2
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_begun_with_time_limits_goes_on_with_a_warning(
    make_job: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    result = run(_begun(make_job(execution={**SMALL, "request_timeout_s": 100})))

    assert (result.exit_code, result.succeeded) == (0, 20)
    assert "execution.request_timeout_s: nothing can end what hangs" in caplog.text
