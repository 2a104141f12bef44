"""Whole jobs on a store that throttles, hangs, refuses or lies, and on a disk that is full: nothing lost or doubled.

Either retries suffice, or the command ends with 4 and one line, and the same command again finishes the run.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.faulty_s3 import Fault, FaultyS3, running_door
from tests.support.jobs import MakeJob

OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker", "environment_id"}

#: What retries bear. The job makes some 80 requests, of which half are puts.
BORNE = {
    "every eighth request is throttled": Fault(".*", "throttle", every=8, times=None),
    "every eighth connection is reset": Fault(".*", "hang up", every=8, times=None),
    "every eighth put is done and reports failure": Fault("PUT", "done, then 500", every=8, times=None),
    "every eighth put is done and its answer is lost": Fault("PUT", "done, then hang up", every=8, times=None),
    "every part is written and reports failure": Fault("PUT", "done, then 500", key="/manifest/", times=None),
    "three requests hang": Fault("PUT|GET", "hang", every=15, times=3),
}
#: What they do not, in the middle of the run, and what the command says.
FATAL = {
    "pictures may no longer be written": (
        Fault("PUT", "deny", key="/artifacts/", after=9, times=None),
        "access denied",
    ),
    "parts may no longer be written": (Fault("PUT", "deny", key="/manifest/", after=2, times=None), "access denied"),
    "the plan may not be written": (Fault("PUT", "deny", key="plan.parquet", times=None), "access denied"),
    "the merged manifest may not be written": (
        Fault("PUT", "deny", key="/manifest.parquet", times=None),
        "access denied",
    ),
    "throttled for good": (
        Fault("PUT", "throttle", key="/artifacts/", after=9, times=None),
        "Reduce your request rate",
    ),
}


@pytest.fixture
def faulty(s3_server: StoreServer, make_job: MakeJob) -> Iterator[tuple[FaultyS3, dict[str, Any]]]:
    """A door, and a job that goes through it."""
    with running_door() as (door, url):
        # A new client each time: connections of an earlier door would be closed ones.
        options = {"endpoint_url": url, "skip_instance_cache": True}
        yield door, make_job(output={"path": s3_server.new_url(), "storage_options": options})


def _rows(path: str | Path, options: dict[str, Any] | None = None) -> pa.Table:
    manifest = open_run(path, options).table()
    return manifest.select([name for name in manifest.column_names if name not in OF_THE_MOMENT])


def _run_command(job: dict[str, Any], tmp_path: Path) -> tuple[int, list[str]]:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    result = CliRunner().invoke(app, ["run", str(spec), "--quiet"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr.splitlines()


def _assert_whole(job: dict[str, Any], make_job: MakeJob) -> None:
    """The run has the rows and the files of the same job on a local disk."""
    output = job["output"]
    local = run(make_job()).path
    there = open_run(output["path"], output.get("storage_options"))
    assert _rows(output["path"], output.get("storage_options")) == _rows(local)
    assert there.store.list("artifacts/00002") == open_run(local).store.list("artifacts/00002")
    assert audit(output["path"], output.get("storage_options")).findings == ()


def _named(faults: Iterable[str]) -> list[Any]:
    """Their names; those that take long because somebody waits are slow tests."""
    waits = ("three requests hang", "every eighth request is throttled", "throttled for good")
    return [pytest.param(name, marks=pytest.mark.slow if name in waits else ()) for name in faults]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("what", _named(BORNE))
def test_what_passes_is_borne_and_nothing_is_lost_or_doubled(
    what: str, faulty: tuple[FaultyS3, dict[str, Any]], make_job: MakeJob, tmp_path: Path
) -> None:
    s3, job = faulty
    fault = replace(BORNE[what])
    s3.faults = [fault]

    ended = _run_command(job, tmp_path)
    s3.heal()

    assert ended == (0, [])
    assert fault.done >= 3
    _assert_whole(job, make_job)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("what", _named(FATAL))
def test_what_does_not_pass_ends_with_4_and_one_line_and_the_same_command_finishes_the_run(
    what: str, faulty: tuple[FaultyS3, dict[str, Any]], make_job: MakeJob, tmp_path: Path
) -> None:
    s3, job = faulty
    fault, said = FATAL[what]
    s3.faults = [replace(fault)]

    exit_code, lines = _run_command(job, tmp_path)
    s3.heal()
    again = _run_command(job, tmp_path)

    assert (exit_code, len(lines)) == (4, 1), lines
    assert said in lines[0]
    assert job["output"]["path"] in lines[0]
    assert again == (0, [])
    _assert_whole(job, make_job)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("side", "limit_bytes"), [(64, 2000), (256, 30_000), (64, 18_000)], ids=["plan", "picture", "manifest"]
)
def test_a_disk_that_takes_no_more_ends_with_4_and_the_same_command_finishes_the_run(
    side: int, limit_bytes: int, make_job: MakeJob, tmp_path: Path
) -> None:
    """A file size limit stands for the full disk: it stops whatever grows beyond it, as that would."""
    job = make_job(params={"width": side, "height": side, "seed": 7}, output={"path": str(tmp_path / "full")})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--quiet"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    limited = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert limited.returncode == 4, limited.stderr
    assert len(limited.stderr.splitlines()) == 1, limited.stderr
    assert "File too large" in limited.stderr
    assert (again.returncode, again.stderr) == (0, "")
    whole = run({**job, "output": {"path": str(tmp_path / "whole")}})
    assert _rows(tmp_path / "full") == _rows(whole.path)
    assert audit(tmp_path / "full").findings == ()
