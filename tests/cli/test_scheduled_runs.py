"""`run` and its kin for a scheduled time: `--at`, `--cron`, and what they leave."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob


def avbatch(*args: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def daily(make_job: MakeJob, tmp_path: Path) -> Path:
    """A spec of two requests that is partitioned by date, with a seed of its own for each tick."""
    path = tmp_path / "daily.yaml"
    job = make_job(
        prompts={"source": ["a fox", "a cat"]},
        samples_per_prompt=1,
        params={"width": 16, "height": 16, "seed": "{{ epoch_s }}"},
        output={"path": str(tmp_path / "runs" / "{{ date }}")},
    )
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def test_a_run_at_a_time_goes_to_its_partition_and_says_so(daily: Path, tmp_path: Path) -> None:
    code, said, _ = avbatch("run", daily, "--at", "2026-11-21T03:00", "--timezone", "Europe/Berlin")

    folder = tmp_path / "runs" / "2026-11-21"
    assert code == 0
    assert "scheduled  2026-11-21T03:00:00+01:00" in said
    assert "| scheduled | 2026-11-21T03:00:00+01:00 |" in (folder / "README.md").read_text()
    found = open_run(folder).record
    assert found.scheduled_at == datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert (found.data["timezone"], found.spec.params.seed) == ("Europe/Berlin", 1795226400)
    status = ("status", daily, "--at", "2026-11-21T02:00Z", "--timezone", "Europe/Berlin", "--json")
    assert json.loads(avbatch(*status)[1])["scheduled_at"] == "2026-11-21T03:00:00+01:00"
    assert "2026-11-21T03:00:00+01:00, Europe/Berlin" in avbatch("record", folder)[1]


def test_a_late_or_repeated_start_of_cron_is_the_same_run(daily: Path) -> None:
    options = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin")
    first = json.loads(avbatch("run", daily, *options, "--json")[1])
    again = json.loads(avbatch("run", daily, *options, "--json")[1])

    assert (first["generated"], again["generated"]) == (2, 0)
    assert first["path"] == again["path"]
    due = open_run(first["path"]).record.scheduled_at
    assert due is not None
    assert (due.hour, due.minute) == (3, 0)
    assert timedelta() <= datetime.now(UTC) - due < timedelta(hours=25)


def test_every_check_takes_the_scheduled_time(daily: Path, tmp_path: Path) -> None:
    for command in ("validate", "plan"):
        answer = json.loads(avbatch(command, daily, "--at", "2026-11-21", "--json")[1])
        assert answer["output_path"] == str(tmp_path / "runs" / "2026-11-21")
        assert answer["scheduled_at"] == "2026-11-21T00:00:00+00:00"
    assert avbatch("lock", daily, "--at", "2026-11-21")[0] == 0
    assert avbatch("run", daily, "--at", "2026-11-21", "--locked", "-q")[0] == 0
    code, _, said = avbatch("run", daily, "--at", "2026-11-22", "--locked", "-q")
    assert code == 2
    assert "a field that changes pixels" in said  # the seed


def test_a_run_of_a_scheduled_time_is_taken_up_again_by_its_folder(daily: Path, tmp_path: Path) -> None:
    avbatch("run", daily, "--at", "2026-11-21", "-q")
    folder, again = tmp_path / "runs" / "2026-11-21", tmp_path / "again"

    assert avbatch("verify", folder)[0] == 0
    assert avbatch("rerun", folder, "-o", again, "-q")[0] == 0
    assert open_run(again).record.scheduled_at == open_run(folder).record.scheduled_at
    assert avbatch("diff", folder, again)[0] == 0
    assert avbatch("audit", folder)[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "{{ epoch_s }} needs a scheduled time (avbatch run SPEC --at "),
        (("--at", "2026-11-21", "--cron", "0 3 * * *"), "so does --cron"),
        (("--timezone", "Europe/Berlin"), "is of --cron or --at"),
        (("--cron", "0 * * * *"), "would both write to "),
        (("--cron", "61 * * * *"), "bad minute"),
        (("--at", "noon"), "is no time"),
    ],
)
def test_what_says_no_scheduled_time_ends_with_2_and_one_line(
    daily: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, errors = avbatch("run", daily, *options)

    assert code == 2
    assert said in " ".join(errors.split())
    assert not (tmp_path / "runs").exists()


def test_a_schedule_tells_what_happens_in_lines_or_in_json(daily: Path, tmp_path: Path) -> None:
    path = f"output.path={tmp_path}/runs/{{{{ scheduled_at }}}}"
    code, said, _ = avbatch("schedule", daily, "--cron", "* * * * * *", "--ticks", "1", "--set", path, "--json")

    *waiting, started, done = (json.loads(line) for line in said.splitlines())
    assert code == 0
    assert [started["event"], done["event"]] == ["started", "done"]
    # A tick that is due at once is not waited for.
    assert [(event["event"], event["next"]) for event in waiting] in ([], [("waiting", started["tick"])])
    assert started["tick"] == done["tick"]
    assert (done["exit_code"], done["path"]) == (0, str(tmp_path / "runs" / done["tick"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--catch-up", "lsat"), "did you mean last?"),
        (("--max-running", "0"), "--max-running"),
        (("--timezone", "Berlin"), "--timezone Berlin: is unknown"),
        (("--set", "modell=x"), "unknown field (did you mean model?)"),
        (("--state", "/proc/nothing/state.json"), "/proc/nothing"),
    ],
)
def test_a_schedule_that_cannot_begin_is_one_line(daily: Path, options: tuple[str, ...], said: str) -> None:
    code, _, errors = avbatch("schedule", daily, "--cron", "0 3 * * *", *options)

    assert code == (4 if options[0] == "--state" else 2)
    assert said in " ".join(errors.split())


def test_the_library_takes_a_scheduled_time(make_job: MakeJob, tmp_path: Path) -> None:
    job: dict[str, Any] = make_job(output={"path": str(tmp_path / "{{ scheduled_at }}")}, samples_per_prompt=1)

    result = run(load_job(job, scheduled_at=datetime(2026, 11, 21, 3, tzinfo=UTC)))

    assert result.path == str(tmp_path / "2026-11-21T0300Z")
    with pytest.raises(SpecError, match="needs a scheduled time"):
        run(job)
