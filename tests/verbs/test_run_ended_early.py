"""What ends a run in the middle of a shard: what is finished is kept, and the next run does the rest, paid once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.listing import read_run_state
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.types import VisionRequest
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.execution import build_context
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from tests.support.jobs import MakeJob
from tests.support.openai_server import Handler, OpenAIServer, answers, refuses, running_server

ANIMALS = [f"animal {number}" for number in range(33)]
EMPTY_ACCOUNT = refuses(402, "Insufficient credits", "insufficient_quota")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def paid_job(server: OpenAIServer, make_job: MakeJob, **sections: Any) -> dict[str, Any]:
    section = {"kind": "openai", "base_url": server.base_url, "retries": 0, "max_concurrency": 4}
    execution = {"batch_size": 4, "shard_size": 16, "max_attempts": 1, **sections.pop("execution", {})}
    return make_job(backend=section, prompts={"source": ANIMALS}, samples_per_prompt=1, execution=execution, **sections)


class EmptyAfter:
    """An account that is empty once so many pictures were paid."""

    def __init__(self, server: OpenAIServer, pictures: int) -> None:
        self.server = server
        self.left = pictures
        self.paid: Counter[str] = Counter()
        self.generate = Handler.generate

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        account = self

        def generate(handler: Handler, received: Any) -> None:
            with account.server.lock:
                account.left -= 1
                empty = account.left < 0
                if not empty:
                    account.paid[received.fields["prompt"]] += 1
            if empty:
                EMPTY_ACCOUNT(handler)
            else:
                account.generate(handler, received)

        monkeypatch.setattr(Handler, "generate", generate)


def statuses(path: Path) -> Counter[str]:
    return Counter(open_run(path).table()["status"].to_pylist())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_pictures_that_were_paid_before_the_account_was_empty_are_kept_and_not_paid_again(
    layout: str, server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = EmptyAfter(server, 18)
    account.install(monkeypatch)
    job = paid_job(server, make_job, output={"path": str(tmp_path / "run"), "layout": layout})

    with pytest.raises(DependencyError, match="Insufficient credits"):
        run(job)
    paid = sum(account.paid.values())
    kept = statuses(tmp_path / "run")["ok"]
    account.left = 100
    finished = run(job)

    assert (paid, kept) == (18, 18)
    assert (finished.succeeded, finished.generated, finished.exit_code) == (33, 15, 0)
    assert account.paid == Counter(ANIMALS)
    assert audit(tmp_path / "run").findings == ()
    again = run({**job, "output": {"path": str(tmp_path / "fresh"), "layout": layout}})
    assert again.succeeded == 33
    assert diff(tmp_path / "run", tmp_path / "fresh").exit_code == 0


def test_one_refused_prompt_of_33_is_a_policy_row_and_33_requests_are_made(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    flagged = {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}
    server.misbehave(answers(403, {"error": flagged}))

    result = run(paid_job(server, make_job))

    assert (result.succeeded, result.by_error_kind, len(server.posts)) == (32, {"policy": 1}, 33)


def test_every_command_knows_a_run_that_is_whole_and_not_complete(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EmptyAfter(server, 6).install(monkeypatch)
    job = paid_job(server, make_job, execution={"shard_size": 40})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))

    ended = CliRunner().invoke(app, ["run", str(spec), "--json"])

    folder = tmp_path / "run"
    rows = open_run(folder).table().to_pylist()
    left = [row for row in rows if row["status"] == "not_run"]
    state, report = read_run_state(open_run(folder).store), audit(folder)
    status = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).stdout)
    said = CliRunner().invoke(app, ["status", str(folder)]).stdout
    audited = CliRunner().invoke(app, ["audit", str(folder)])
    retried = CliRunner().invoke(app, ["retry", str(folder), "--json"])
    assert ended.exit_code == 3
    assert len(rows) == 33
    assert {row["error_kind"] for row in left} == {None}
    assert all("Insufficient credits" in row["error_message"] for row in left)
    assert (state.state, state.succeeded, state.failed, state.not_run, state.shards_done) == ("incomplete", 6, 0, 27, 0)
    assert (status["complete"], status["succeeded"], status["failed"], status["not_run"]) == (False, 6, 0, 27)
    assert "6 succeeded, 0 failed, 27 left (27 of them in shards that ended early)" in said
    assert (report.whole, report.complete, report.not_run, report.exit_code) == (True, False, 27, 1)
    assert "whole, but not complete" in audited.stdout
    assert (retried.exit_code, json.loads(retried.stdout)["generated"]) == (4, 0)
    assert not (folder / "manifest.parquet").exists()
    assert not (folder / "README.md").exists()


def test_an_error_before_anything_is_finished_leaves_no_part(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EmptyAfter(server, 0).install(monkeypatch)

    with pytest.raises(DependencyError):
        run(paid_job(server, make_job))

    assert not (tmp_path / "run/manifest").exists()
    assert len(server.posts) <= 12


def test_a_run_may_end_early_again_and_again_and_tries_add_up(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = EmptyAfter(server, 6)
    account.install(monkeypatch)
    job = paid_job(server, make_job, execution={"shard_size": 40, "budget": {"requests": 60}})
    for _ in range(4):
        with pytest.raises(DependencyError):
            run(job)
        account.left = 6

    account.left = 100
    finished = run(job)

    names = sorted(path.name for path in (tmp_path / "run/manifest").iterdir())
    assert names == [f"00000-a{attempt}.parquet" for attempt in range(5)]
    assert (finished.succeeded, finished.exit_code) == (33, 0)
    assert account.paid == Counter(ANIMALS)
    assert finished.attempts <= 60
    assert pq.read_table(tmp_path / "run/manifest.parquet")["status"].to_pylist() == ["ok"] * 33


def test_shards_without_a_part_and_rows_that_were_not_run_are_done_by_one_command(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = EmptyAfter(server, 5)
    account.install(monkeypatch)
    job = paid_job(server, make_job, execution={"shard_size": 8})
    with pytest.raises(DependencyError):
        run(job)
    account.left = 100
    assert open_run(tmp_path / "run").counts.not_run

    seen: list[tuple[int, int, int]] = []
    finished = run(job, on_progress=lambda now: seen.append((now.done, now.shards_done, now.skipped)))

    assert (finished.succeeded, finished.generated, finished.skipped, finished.exit_code) == (33, 28, 5, 0)
    assert seen[-1] == (33, 5, 5)
    assert account.paid == Counter(ANIMALS)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_every_picture_that_was_paid_is_kept_too(
    server: OpenAIServer, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = EmptyAfter(server, 14)
    account.install(monkeypatch)
    on_ray = {"executor": "ray", "actors": 2, "cpus_per_actor": 0.5, "shard_size": 16}
    job = paid_job(server, make_job, execution=on_ray)

    with pytest.raises(DependencyError, match="Insufficient credits"):
        run(job)
    kept = statuses(tmp_path / "run")["ok"]
    account.left = 100
    finished = run(job)

    assert kept == 14
    assert (finished.succeeded, finished.generated, finished.exit_code) == (33, 19, 0)
    assert account.paid == Counter(ANIMALS)
    assert audit(tmp_path / "run").findings == ()


class Faulty(ProceduralVisionBackend):
    """Has a fault of its own at the third batch."""

    batches = 0

    def generate_batch(self, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        self.batches += 1
        if self.batches == 3:
            raise KeyError("a fault")
        return super().generate_batch(requests, **options)


def test_a_fault_of_a_backend_keeps_what_is_finished_and_is_raised(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(execution={"batch_size": 2, "shard_size": 20})
    loaded = load_job(job)
    store = loaded.open_output(writable=True)
    runner = ShardRunner(build_context(loaded, store, start_run(loaded, store).plan), Faulty())

    with pytest.raises(KeyError):
        runner.run_shard(0)

    runner.close()
    assert statuses(tmp_path / "run") == {"ok": 4, "not_run": 16}
    assert run(job).generated == 16
    assert audit(tmp_path / "run").findings == ()


def test_a_retry_that_ends_early_leaves_other_rows_failed(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(
        backend={"kind": "procedural", "fail_when": "."}, execution={"batch_size": 2, "shard_size": 20}, params={}
    )
    run({**job, "execution": {**job["execution"], "stop_when_all_fail": False}})
    generate = ProceduralVisionBackend.generate_batch
    asked = Counter[str]()

    def ends(self: ProceduralVisionBackend, requests: Sequence[VisionRequest], **options: Any) -> list[BatchItem]:
        asked["batch"] += 1
        if asked["batch"] == 3:
            raise DependencyError("the program is gone")
        return generate(self, requests, **options)

    monkeypatch.setattr(ProceduralVisionBackend, "generate_batch", ends)
    with pytest.raises(DependencyError):
        retry(tmp_path / "run", overrides=["backend.fail_when=null"])

    counts = open_run(tmp_path / "run").counts
    assert (counts.succeeded, counts.failed, counts.not_run) == (4, 16, 0)
    assert audit(tmp_path / "run").remaining[0].kind == "manifest"
    assert retry(tmp_path / "run", overrides=["backend.fail_when=null"]).exit_code == 0


def test_a_second_ctrl_c_keeps_the_finished_rows_of_the_running_shard(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    journal = tmp_path / "journal"
    backend = {"kind": "procedural", "delay_s": 0.1, "journal_path": str(journal)}
    job = make_job(backend=backend, execution={"batch_size": 1, "shard_size": 20})
    spec.write_text(yaml.safe_dump(job))
    process = subprocess.Popen(
        [sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--json"], stdout=subprocess.PIPE
    )
    while not journal.exists() or len(journal.read_text().splitlines()) < 4:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    result = json.loads(out)
    assert (process.returncode, result["interrupted"]) == (130, True)
    assert 3 <= result["succeeded"] == result["generated"] < 20
    assert result["not_done"] == 20 - result["succeeded"]
    finished = run({**job, "backend": {"kind": "procedural"}})
    assert (finished.generated, finished.exit_code) == (20 - result["succeeded"], 0)
