"""Jobs sent to a real cluster through its dashboard's port, with S3 output; each command a process of its own.

The cluster asks for a token, as Ray's own default is. Its nodes are started by `ray start`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
import uuid
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.job.load import GivenSpec, load_job
from abstractvision_batch.prompts.images import PACKAGED
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.submit.submit import build_runtime_env, write_entrypoint
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob
from tests.support.journal import read_journal, wait_for
from tests.support.local_cluster import LocalCluster, local_cluster

pytestmark = pytest.mark.ray

TOKEN = "a-token-of-these-tests-and-of-nothing-else"
#: A value that must turn up nowhere.
SECRET = "s3cr3t-value-of-nobody"
#: Columns of when, by whom and where.
OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker", "environment_id", "input_image"}


@dataclass
class Cluster:
    """The cluster, and the command line of somebody who uses it."""

    ray: LocalCluster

    def avbatch(self, *words: str, exit_code: int = 0, **environ: str | None) -> str:
        """What a command prints; `environ` over the user's variables, None for one that is not set."""
        return self.end_of(self.start(*words, **environ), exit_code)

    @staticmethod
    def end_of(process: subprocess.Popen[str], exit_code: int = 0) -> str:
        """What a command that was started printed."""
        out, said = process.communicate(timeout=200)
        assert process.returncode == exit_code, out + said
        assert "Traceback" not in out + said
        return out + said

    def start(self, *words: str, **environ: str | None) -> subprocess.Popen[str]:
        """A command that runs beside the test."""
        given = {**os.environ, "RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": self.ray.dashboard, **environ}
        env = {name: value for name, value in given.items() if value is not None}
        command = [sys.executable, "-m", "abstractvision_batch", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.fixture(scope="module")
def cluster(s3_server: StoreServer) -> Iterator[Cluster]:
    """A head without CPUs and a node of two."""
    pytest.importorskip("opencensus", reason="the dashboard is of the extra `cluster`")
    with local_cluster(environ={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}) as ray:
        ray.add_node(2)
        yield Cluster(ray)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "specs").mkdir()
    return tmp_path / "specs/job.yaml"


def _rows(path: str | Path) -> pa.Table:
    manifest = open_run(path).table()
    return manifest.select([name for name in manifest.column_names if name not in OF_THE_MOMENT])


def _new_id() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.mark.slow
def test_a_submitted_job_runs_whole_with_what_went_along(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    (tmp_path / "data").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"data/{colour}.png")
        (tmp_path / f"data/{colour}.csv").write_text(f"prompt,image\na fox,{colour}.png\na cat,{colour}.png\n")
    output = {"path": "${PLACE}", "embed_metadata": False}  # which names the input image, by its place
    env_vars = {"PLAIN": "1", "ITS_SECRET": {"env": "AWS_SECRET_ACCESS_KEY"}}
    execution = {"batch_size": 2, "shard_size": 4, "actors": 1, "runtime_env": {"env_vars": env_vars}}
    job = make_job(task="image_to_image", prompts={"source": "../data/*.csv"}, output=output, execution=execution)
    spec.write_text(yaml.safe_dump(job))
    url, job_id = s3_server.new_url(), _new_id()

    said = cluster.avbatch("submit", str(spec), "--submission-id", job_id, "--follow", PLACE=url)

    assert f"submitted  {job_id}" in said
    assert "2 prompt files, 2 input images" in said
    assert "16 succeeded, 0 failed" in said  # the run's own summary, from its log
    assert said.count("merge: 16/16") == 1
    assert "succeeded, exit code 0" in said
    here = {"output": {**output, "path": str(tmp_path / "here")}, "prompts": {"source": str(tmp_path / "data/*.csv")}}
    run({**job, **here})
    assert _rows(url) == _rows(tmp_path / "here")
    assert audit(url).remaining == ()
    assert set(open_run(url).table()["input_image"].to_pylist()) == {"data/red.png", "data/blue.png"}
    listing = cluster.start("jobs", "list", "--json")
    near = cluster.start("jobs", "status", job_id[:-1])
    again = cluster.start("submit", str(spec), "--submission-id", job_id, PLACE=url)
    jobs = json.loads(cluster.end_of(listing))["jobs"]
    assert [(job["id"], job["state"], job["exit_code"], job["output"]) for job in jobs] == [
        (job_id, "succeeded", 0, url)
    ]
    assert jobs[0]["progress"]["shards_done"] == jobs[0]["progress"]["shards"] == 4
    assert f"no job {job_id[:-1]} (did you mean {job_id}?)" in cluster.end_of(near, 2)
    assert "the cluster has a job of this id" in cluster.end_of(again, 2)


@pytest.mark.slow
def test_a_secret_that_the_cluster_lacks_is_one_line_of_the_job_and_its_value_goes_nowhere(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, spec: Path
) -> None:
    output = {"path": s3_server.new_url(), "storage_options": {"secret": {"env": "ONLY_HERE"}}}
    spec.write_text(yaml.safe_dump(make_job(output=output)))
    job_id = _new_id()

    said = cluster.avbatch("submit", str(spec), "--submission-id", job_id, "--wait", exit_code=2, ONLY_HERE=SECRET)

    why = "output.storage_options.secret: environment variable ONLY_HERE is not set (export ONLY_HERE=…)"
    assert why in said
    told = cluster.avbatch("jobs", "status", job_id, "--json", ONLY_HERE=SECRET)
    assert why in "\n".join(json.loads(told)["reason"])
    assert SECRET not in told + said
    found = subprocess.run(["grep", "-rl", SECRET, str(cluster.ray.folder)], capture_output=True, text=True)
    assert found.stdout == ""


def test_a_client_without_the_token_is_told_what_to_set(cluster: Cluster, tmp_path: Path) -> None:
    without = cluster.start("jobs", "list", RAY_AUTH_TOKEN=None, HOME=str(tmp_path))
    with_another = cluster.start("jobs", "list", RAY_AUTH_TOKEN="wrong")

    said, wrong = cluster.end_of(without, 4), cluster.end_of(with_another, 4)
    assert "asks for a token, and there is none here (set RAY_AUTH_TOKEN" in said
    assert "refuses the token of RAY_AUTH_TOKEN" in wrong
    assert [len(text.splitlines()) for text in (said, wrong)] == [1, 1]


def test_a_cluster_that_is_not_there_is_one_line_and_exit_code_4(
    make_job: MakeJob, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the client would set it for the whole process
    spec.write_text(yaml.safe_dump(make_job(output={"path": "s3://bucket/run"})))

    done = CliRunner().invoke(app, ["submit", str(spec), "--address", "http://127.0.0.1:9"])

    assert done.exit_code == 4
    assert "http://127.0.0.1:9: cannot connect" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", ["runs/demo", "~/demo", "memory://run"])
def test_an_output_of_one_machine_is_refused_before_anything_is_sent(path: str, make_job: MakeJob, spec: Path) -> None:
    spec.write_text(yaml.safe_dump(make_job(output={"path": path})))

    done = CliRunner().invoke(app, ["submit", str(spec), "--address", "http://127.0.0.1:9"])

    assert done.exit_code == 2
    assert "output.path" in done.stderr
    assert "write a URL, as s3://bucket/run" in done.stderr


def test_the_entrypoint_says_everything_to_a_shell() -> None:
    time = datetime(2026, 11, 21, 3, tzinfo=ZoneInfo("Europe/Berlin"))

    given = GivenSpec("specs/a b.yaml", ("name=it's", 'prompts.source="x.txt"'), ("cards",), time)

    text = write_entrypoint(given, extend=True, locked=False)

    words = shlex.split(text.removeprefix("exec "))
    assert words[:5] == ["python", "-m", "abstractvision_batch", "run", "specs/a b.yaml"]
    assert words[5:9] == ["--set", "name=it's", "--set", 'prompts.source="x.txt"']
    assert words[9:] == [
        *("--registry", "cards", "--at", "2026-11-21T03:00:00+01:00", "--timezone", "Europe/Berlin", "--extend"),
    ]


def test_the_driver_of_a_job_has_the_environment_of_its_workers_and_no_secret_of_it(make_job: MakeJob) -> None:
    env_vars = {"HF_HOME": "/cache", "HF_TOKEN": {"env": "MY_TOKEN"}, "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    loaded = load_job(make_job(execution={"runtime_env": {"env_vars": env_vars, "pip": ["ftfy"]}}))

    told = build_runtime_env(loaded.spec.execution.runtime_env, Path("job.zip"))

    assert told == {
        "working_dir": "job.zip",
        "pip": ["ftfy"],
        "env_vars": {"HF_HOME": "/cache", "RAY_JOB_STOP_WAIT_TIME_S": "60", PACKAGED: "1"},
    }


def test_a_working_dir_of_the_spec_is_refused(make_job: MakeJob, spec: Path) -> None:
    execution = {"runtime_env": {"working_dir": "code"}}
    spec.write_text(yaml.safe_dump(make_job(output={"path": "s3://bucket/run"}, execution=execution)))

    done = CliRunner().invoke(app, ["submit", str(spec), "--address", "http://127.0.0.1:9"])

    assert done.exit_code == 2
    assert "execution.runtime_env.working_dir: code: a submitted job starts in" in done.stderr


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python that has what avbatch imports, and not avbatch."""
    venv.create(tmp_path / "bare", with_pip=False)
    site = next((tmp_path / "bare/lib").glob("python*/site-packages"))
    (site / "more.pth").write_text(sysconfig.get_path("purelib"))  # the .pth files there do not count
    python = tmp_path / "bare/bin/python"
    if (
        subprocess.run(
            [python, "-I", "-c", "import abstractvision_batch"], capture_output=True, cwd=tmp_path
        ).returncode
        == 0
    ):
        pytest.skip("avbatch is installed as a copy")
    return python


@pytest.mark.slow
def test_a_cluster_that_lacks_avbatch_says_so_and_runs_the_one_that_is_shipped(
    bare_python: Path, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    """It asks for no token, and takes one."""
    spec.write_text(yaml.safe_dump(make_job(output={"path": str(tmp_path / "run")})))
    with local_cluster(cpus=1, environ={"RAY_AUTH_MODE": "disabled"}, python=bare_python) as ray:
        cluster = Cluster(ray)

        lacking = cluster.avbatch("submit", str(spec), "--wait", exit_code=3)
        shipped = cluster.avbatch("submit", str(spec), "--wait", "--ship-package")
        listed = cluster.avbatch("jobs", "list", RAY_AUTH_TOKEN=None, HOME=str(tmp_path))

    assert "ended by   the cluster's python has no abstractvision_batch" in lacking
    assert "20 succeeded, 0 failed" in shipped
    assert len(listed.splitlines()) == 3


@pytest.mark.slow
def test_stop_lets_a_long_shard_finish_and_commit_and_submitting_again_resumes(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    """Ray itself kills a stopped job after 3 s."""
    job_id, journal, url = _new_id(), tmp_path / "journal.jsonl", s3_server.new_url()
    backend = {"kind": "procedural", "delay_s": 2.0, "journal_path": str(journal)}
    spec.write_text(yaml.safe_dump(make_job(backend=backend, output={"path": url}, prompts={"source": ["a fox"] * 3})))
    cluster.avbatch("submit", str(spec), "--submission-id", job_id)
    wait_for(lambda: len(read_journal(journal)) >= 2, "two workers begin")

    assert "running shards finish and commit" in cluster.avbatch("jobs", "stop", job_id)
    said = cluster.avbatch("jobs", "wait", job_id, exit_code=130)

    assert "stopped, exit code 130" in said
    begun = len(read_journal(journal))
    done = open_run(url).counts
    assert (done.succeeded, done.failed) == (begun, 0)
    assert 0 < begun < 12
    cluster.avbatch("submit", str(spec), "--wait")
    assert len(read_journal(journal)) == 12


@pytest.mark.slow
def test_stop_now_cancels_running_shards(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    job_id, journal, url = _new_id(), tmp_path / "journal.jsonl", s3_server.new_url()
    backend = {"kind": "procedural", "delay_s": 60.0, "journal_path": str(journal)}
    spec.write_text(yaml.safe_dump(make_job(backend=backend, output={"path": url})))
    cluster.avbatch("submit", str(spec), "--submission-id", job_id)
    wait_for(lambda: len(read_journal(journal)) >= 1, "a worker begins")

    assert "cancelled" in cluster.avbatch("jobs", "stop", job_id, "--now")
    cluster.avbatch("jobs", "wait", job_id, exit_code=130)

    assert len(open_run(url).missing_shards()) == 5
    assert "-cancel-" not in cluster.avbatch("jobs", "list")


@pytest.mark.slow
def test_a_job_outlives_a_node_and_uses_one_that_joins(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    job_id, journal, url = _new_id(), tmp_path / "journal.jsonl", s3_server.new_url()
    backend = {"kind": "procedural", "delay_s": 0.5, "journal_path": str(journal)}
    execution = {"batch_size": 2, "shard_size": 4, "actors": 4}
    job = make_job(backend=backend, output={"path": url}, samples_per_prompt=32, execution=execution)
    spec.write_text(yaml.safe_dump(job))
    extra = cluster.ray.add_node(1)
    follower = cluster.start("submit", str(spec), "--submission-id", job_id, "--follow")
    wait_for(lambda: len({entry.pid for entry in read_journal(journal)}) >= 3, "three workers begin")
    cluster.ray.kill_node(extra)
    before = {entry.pid for entry in read_journal(journal)}

    cluster.ray.add_node(1)
    said = follower.communicate(timeout=200)[0]

    assert follower.returncode == 0, said
    assert {entry.pid for entry in read_journal(journal)} - before  # on the node that joined
    assert audit(url, repair=True, grace_s=0).remaining == ()
    assert open_run(url).counts.succeeded == 160


@pytest.mark.slow
def test_following_can_be_left_while_the_job_runs_on(
    cluster: Cluster, s3_server: StoreServer, make_job: MakeJob, tmp_path: Path, spec: Path
) -> None:
    job_id, journal = _new_id(), tmp_path / "journal.jsonl"
    backend = {"kind": "procedural", "delay_s": 0.3, "journal_path": str(journal)}
    spec.write_text(yaml.safe_dump(make_job(backend=backend, output={"path": s3_server.new_url()})))
    follower = cluster.start("submit", str(spec), "--submission-id", job_id, "--follow")
    wait_for(lambda: len(read_journal(journal)) >= 1, "a worker begins")

    follower.send_signal(2)
    said = follower.communicate(timeout=60)[1]

    assert follower.returncode == 130
    assert f"the job runs on (avbatch jobs status {job_id}" in said
    assert "Traceback" not in said
    assert "succeeded" in cluster.avbatch("jobs", "wait", job_id)
    elsewhere = cluster.avbatch("jobs", "status", job_id, AWS_ENDPOINT_URL_S3="http://127.0.0.1:9")
    assert "log says   report: 20/20 requests (100%)" in elsewhere
    assert "unread     " in elsewhere
