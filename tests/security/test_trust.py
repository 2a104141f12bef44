"""Whose run it is: one that this user started is taken at its word, another one only after --trust."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import escape_references, interpolate
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> dict[str, Any]:
    """Writes a journal: a path outside of its run."""
    return make_job(
        backend={"kind": "procedural", "journal_path": str(tmp_path / "journal"), "fail_when": "bee"},
        params={"width": 16, "height": 16, "seed": 7},
        execution={"batch_size": 2, "shard_size": 4, "executor": "inline"},
    )


def test_a_run_that_this_user_started_needs_no_trust(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)

    assert verify(tmp_path / "run", sample=2).exit_code == 0
    rerun(tmp_path / "run", tmp_path / "again")
    assert verify(tmp_path / "again", sample=2).exit_code == 0
    retry(tmp_path / "run")


@pytest.mark.parametrize("how", ["copied", "changed", "of another machine"])
def test_a_run_that_is_not_as_this_user_started_it_needs_trust(
    job: dict[str, Any], tmp_path: Path, state: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(job)
    place = tmp_path / "run"
    if how == "copied":
        place = shutil.copytree(place, tmp_path / "copy")
    elif how == "changed":
        record = json.loads((place / "run.json").read_text())
        record["spec"]["backend"]["journal_path"] = str(tmp_path / "loot")
        (place / "run.json").write_text(json.dumps(record))
    else:
        shutil.rmtree(state)

    with pytest.raises(SpecError, match=r"write to .*journal_path.*--trust"):
        verify(place, sample=2)
    with pytest.raises(SpecError, match="--trust"):
        rerun(place, tmp_path / "again")
    with pytest.raises(SpecError, match="--trust"):
        retry(place)
    assert not (tmp_path / "loot").exists()
    assert not (tmp_path / "again").exists()

    assert verify(place, sample=2, trust=True).exit_code == 0
    assert "trusted, so a verification will: write to " in caplog.text


def test_what_the_user_names_needs_no_trust(job: dict[str, Any], tmp_path: Path) -> None:
    run(job)
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")

    own = [f"backend.journal_path={tmp_path / 'mine'}"]

    assert verify(copy, sample=2, overrides=own).exit_code == 0
    assert (tmp_path / "mine").exists()


def test_a_run_that_names_nothing_outside_needs_no_trust(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")

    assert verify(copy, sample=2).exit_code == 0


def test_running_its_own_spec_again_notes_a_run_as_started_if_it_names_the_same(
    job: dict[str, Any], tmp_path: Path, state: Path
) -> None:
    run(job)
    shutil.rmtree(state)

    run({**job, "backend": {**job["backend"], "journal_path": str(tmp_path / "other")}})
    with pytest.raises(SpecError, match="--trust"):
        verify(tmp_path / "run", sample=2)
    run(job)

    assert verify(tmp_path / "run", sample=2).exit_code == 0


def test_an_extended_run_is_the_users_if_it_was_before(job: dict[str, Any], tmp_path: Path, state: Path) -> None:
    more = {**job, "samples_per_prompt": 5}
    run(job)
    run(more, extend=True)
    assert verify(tmp_path / "run", sample=2).exit_code == 0

    shutil.rmtree(state)
    run({**job, "samples_per_prompt": 6}, extend=True)

    with pytest.raises(SpecError, match="--trust"):
        verify(tmp_path / "run", sample=2)


def test_a_state_folder_that_cannot_be_written_is_one_warning(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    with caplog.at_level(logging.WARNING):
        assert run(job).exit_code == 1  # its bees fail
        run(job)

    assert caplog.text.count("not noted as started by you") == 1
    with pytest.raises(SpecError, match="--trust"):
        retry(tmp_path / "run")


def test_the_command_lists_what_would_be_done_and_takes_trust(job: dict[str, Any], tmp_path: Path, state: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump({"version": 1, **job}), encoding="utf-8")
    run(spec)
    shutil.rmtree(state)
    place = str(tmp_path / "run")

    refused = CliRunner().invoke(app, ["verify", place, "--sample", "2"])
    as_json = CliRunner().invoke(app, ["verify", place, "--json"])
    trusted = CliRunner().invoke(app, ["verify", place, "--sample", "2", "--trust"])
    of_the_spec = CliRunner().invoke(app, ["retry", str(spec)])

    assert (refused.exit_code, as_json.exit_code, trusted.exit_code, of_the_spec.exit_code) == (2, 2, 0, 1)
    assert f"write to {tmp_path / 'journal'} (backend.journal_path)" in refused.stderr
    assert json.loads(as_json.stdout)["exit_code"] == 2


def test_variables_that_a_record_names_in_its_paths_stay_as_they_are() -> None:
    paths = {"model_path": "/x/${SECRET}/$${SECRET}", "vae": "${SECRET}", "loras": [{"source": "${SECRET}"}]}
    recorded = {"backend": {"kind": "sdcpp", **paths}, "registry": {"paths": ["${SECRET}"]}, "name": "a"}

    read, problems = interpolate(escape_references(recorded), {"SECRET": "key"})

    assert (read, problems) == (recorded, [])
