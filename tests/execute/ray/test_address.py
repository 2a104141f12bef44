"""Which cluster a driver joins, and what it says of addresses that are something else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.ray.address import INSIDE_JOB, find_address
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.model import ExecutionSpec
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.execution import build_context
from tests.support.jobs import MakeJob
from tests.support.run_context import PLAN


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(INSIDE_JOB, raising=False)


def test_the_spec_wins_over_the_environment_and_local_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_address(ExecutionSpec()) is None
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")

    assert find_address(ExecutionSpec()) == "other:6379"
    assert find_address(ExecutionSpec(address="head:6379")) == "head:6379"
    assert find_address(ExecutionSpec(address="local")) is None


def test_a_driver_inside_of_a_job_joins_the_cluster_of_that_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv(INSIDE_JOB, "{}")

    assert find_address(ExecutionSpec(address="http://head:8265")) == "10.0.0.1:6379"


def test_an_address_of_jobs_or_of_ray_client_names_the_command_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SpecError, match=r"^a\.yaml:3:3: execution\.address: http://h:8265: .*submit SPEC --address http"
    ):
        find_address(ExecutionSpec(address="http://h:8265"), place="a.yaml:3:3: execution.address")
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:10001")
    with pytest.raises(SpecError, match=r"^RAY_ADDRESS=ray://h:10001: is Ray Client's.*avbatch submit"):
        find_address(ExecutionSpec())


def test_run_refuses_such_an_address_before_anything_is_written(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job()))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(tmp_path / "job.yaml")]

    done = subprocess.run([*command, "--address", "http://head:8265"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("--address http://head:8265: is where jobs are submitted")
    assert not (tmp_path / "run").exists()


def test_secrets_of_the_runtime_environment_are_for_workers_and_in_no_repr(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_DRIVER", "s3cr3t")
    env_vars = {"TOKEN": {"env": "OF_THE_DRIVER"}, "PLAIN": "p"}
    job = make_job(execution={"executor": "ray", "runtime_env": {"env_vars": env_vars, "pip": ["a"]}})
    loaded = load_job(job)

    context = build_context(loaded, open_store(str(tmp_path)), PLAN)

    assert context.environ == {"TOKEN": "s3cr3t"}
    assert "s3cr3t" not in repr(context)
    assert loaded.spec.execution.runtime_env.for_ray() == {"pip": ["a"], "env_vars": {"PLAIN": "p"}}
    monkeypatch.delenv("OF_THE_DRIVER")
    with pytest.raises(SpecError, match=r"execution\.runtime_env\.env_vars\.TOKEN: .*OF_THE_DRIVER is not set"):
        build_context(loaded, open_store(str(tmp_path)), PLAN)
