"""`--storage-option`: looking at and mending a run on a store, from a machine that has only its URL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.storage_options import parse_storage_options
from tests.support.emulators import StoreServer
from tests.support.faulty_s3 import FaultyS3, running_door
from tests.support.jobs import MakeJob


@pytest.fixture
def door() -> Iterator[tuple[FaultyS3, str]]:
    with running_door() as (door, endpoint):
        yield door, endpoint


def _avbatch(*args: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == code, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_values_are_yaml_dots_nest_and_secrets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret")
    given = [
        "anon=true",
        "client_kwargs.region_name=eu-1",
        "client_kwargs.verify=false",
        "config_kwargs.read_timeout=5",
    ]

    options = parse_storage_options(
        [*given, "key={env: MY_SECRET}", "secret=env:MY_SECRET", "endpoint_url=http://a:1/b=c"]
    )

    assert options == {
        "anon": True,
        "client_kwargs": {"region_name": "eu-1", "verify": False},
        "config_kwargs": {"read_timeout": 5},
        "key": "s3cret",
        "secret": "s3cret",
        "endpoint_url": "http://a:1/b=c",
    }


def test_everything_that_is_wrong_is_said_at_once_and_no_secret_with_it() -> None:
    with pytest.raises(SpecError) as caught:
        parse_storage_options(["endpoint_url", "secret=hunter2", "key=env:NOT_SET_ANYWHERE", "a=1", "a.b=2", "x=env:1"])

    assert caught.value.problems == (
        "--storage-option endpoint_url: is not of the form key=value (as endpoint_url=http://127.0.0.1:9000)",
        "--storage-option secret: a secret stands on the command line (write secret=env:NAME)",
        "--storage-option key: environment variable NOT_SET_ANYWHERE is not set (export NOT_SET_ANYWHERE=…)",
        "--storage-option a.b: a is an option of its own already",
        "--storage-option x: '1' is no name of an environment variable",
    )


def test_the_status_of_a_run_shows_from_another_machine_while_it_goes_on(
    s3_server: StoreServer, door: tuple[FaultyS3, str], make_job: MakeJob, tmp_path: Path
) -> None:
    """Another process runs, for 20 s if it is let; whoever looks knows the URL alone, and may only read."""
    faulty, endpoint = door
    faulty.refused = ("PUT", "POST", "DELETE")
    url = s3_server.new_url()
    job = make_job(backend={"kind": "procedural", "delay_s": 1}, output={"path": url})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump({**job, "execution": {"batch_size": 1, "shard_size": 1}}))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--quiet"]
    look = ["status", url, "--storage-option", f"endpoint_url={endpoint}", "--json"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        state = {"shards_done": 0}
        while process.poll() is None and not state["shards_done"]:
            done = CliRunner().invoke(app, look)
            assert done.exit_code == 0 or "no run here" in done.stdout
            state = json.loads(done.stdout) if done.exit_code == 0 else state
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert 0 < state["shards_done"] < 20
    assert (state["complete"], state["merged"], state["succeeded"]) == (False, False, state["shards_done"])
    assert _avbatch(*look[:-1])["shards_done"] >= state["shards_done"]
    assert set(faulty.requests) <= {"GET", "HEAD"}


def test_a_run_is_audited_and_retried_by_its_url_and_options_alone(
    s3_server: StoreServer,
    door: tuple[FaultyS3, str],
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The spec's own options name a server that only the machine of the run reached; so does the environment."""
    faulty, endpoint = door
    elsewhere = os.environ["AWS_ENDPOINT_URL_S3"]
    theirs = {"endpoint_url": elsewhere, "key": {"env": "THEIR_KEY"}, "secret": {"env": "THEIR_KEY"}}
    url = s3_server.new_url()
    job = make_job(backend={"kind": "procedural", "fail_when": "dog"}, output={"path": url, "storage_options": theirs})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    monkeypatch.setenv("THEIR_KEY", "test")
    _avbatch("run", str(spec), code=1)
    monkeypatch.delenv("THEIR_KEY")
    monkeypatch.setenv("MY_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    mine = [f"endpoint_url={endpoint}", "key=env:MY_KEY", "secret=env:MY_KEY"]
    options = [word for option in mine for word in ("--storage-option", option)]

    audited = _avbatch("audit", url, *options)
    retried = _avbatch("retry", url, *options, "--set", "backend.fail_when=null")
    by_spec = [_avbatch(command, str(spec), *options) for command in ("status", "audit")]

    assert (audited["whole"], audited["failed"]) == (True, 4)
    assert (retried["generated"], retried["failed"]) == (4, 0)
    assert [(answer["succeeded"], answer["failed"]) for answer in by_spec] == [(20, 0)] * 2
    assert "PUT" in faulty.requests
