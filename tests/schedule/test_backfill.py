"""Backfill makes what is missing of a range, oldest first, and `runs` lists what is there."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.scheduled_time import tick_key
from abstractvision_batch.runs.listing import RunState, list_runs
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.schedule.backfill import backfill, find_ticks
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def avbatch(*args: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def small(make_job: MakeJob) -> dict[str, Any]:
    """Two requests in two shards."""
    return make_job(
        prompts={"source": ["a fox", "a cat"]},
        samples_per_prompt=1,
        params={"width": 16, "height": 16, "steps": 1},
        execution={"batch_size": 1, "shard_size": 1, "batch_canary": False},
    )


@pytest.fixture
def daily(small: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "daily.yaml"
    path.write_text(yaml.safe_dump({**small, "output": {"path": str(tmp_path / "runs" / "{{ date }}")}}))
    return path


def at(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=UTC)


def test_a_backfill_makes_what_is_missing_finishes_what_is_not_complete_and_keeps_the_rest(
    daily: Path, tmp_path: Path
) -> None:
    spec = yaml.safe_load(daily.read_text())
    run(load_job(spec, scheduled_at=at(2)))
    run(load_job({**spec, "execution": {**spec["execution"], "budget": {"requests": 1}}}, scheduled_at=at(3)))
    before = (tmp_path / "runs" / "2026-11-02" / "manifest.parquet").stat().st_mtime_ns
    decided: list[str] = []
    span = ("--from", "2026-11-02", "--to", "2026-11-04")

    code, said, _ = avbatch("backfill", daily, *span, "--dry-run", "--json")
    looked = json.loads(said)
    assert code == 0
    assert [(one["found"]["state"], one["action"]) for one in looked["partitions"]] == [
        ("complete", "skipped"),
        ("incomplete", "pending"),
        ("missing", "pending"),
    ]
    report = backfill(
        daily,
        "2026-11-02",
        "2026-11-04",
        on_partition=lambda one: decided.append(f"{one.scheduled_at.day} {one.action}"),
    )

    assert report.exit_code == 0
    assert decided == ["2 skipped", "3 succeeded", "4 succeeded"]
    assert [run.state for run in list_runs(tmp_path / "runs")] == ["complete"] * 3
    assert (tmp_path / "runs" / "2026-11-02" / "manifest.parquet").stat().st_mtime_ns == before
    assert "1 of them now" in str(report.partitions[1].said)  # the other was there
    assert open_run(tmp_path / "runs" / "2026-11-04").record.scheduled_at == at(4)
    code, said, _ = avbatch("backfill", daily, *span)
    assert (code, said.splitlines()[-1]) == (0, "3 partitions: 3 skipped")


def test_a_backfill_ends_with_the_worst_code_of_its_partitions_also_of_those_that_it_skips(daily: Path) -> None:
    failing = "backend={kind: procedural, fail_when: fox}"
    span = ("--from", "2026-11-02", "--to", "2026-11-02", "--set", failing)

    code, said, notes = avbatch("backfill", daily, *span)
    assert code == 1
    assert "2026-11-02T0000Z  succeeded: 1 succeeded, 1 failed" in notes
    code, said, _ = avbatch("backfill", daily, *span)
    assert code == 1
    assert "1 failed  skipped  1" in said


@pytest.mark.parametrize(
    ("cron", "start", "end", "due", "not_due"),
    [
        ("0 0 * * *", "2026-11-01", "2026-11-03", ["2026-11-01T0000Z", "2026-11-02T0000Z", "2026-11-03T0000Z"], 0),
        ("0 3 * * *", "2026-11-01", "2026-11-01", ["2026-11-01T0300Z"], 0),  # a day is all of it
        ("0 3 * * *", "2026-11-01T03:00Z", "2026-11-02T03:00Z", ["2026-11-01T0300Z", "2026-11-02T0300Z"], 0),
        ("0 3 * * *", "2026-11-01T04:00Z", "2026-11-02T02:00", [], None),
        ("0 3 * * *", "2026-11-20", "2026-11-23", ["2026-11-20T0300Z", "2026-11-21T0300Z"], 2),
    ],
)
def test_a_range_has_both_its_ends(cron: str, start: str, end: str, due: list[str], not_due: int | None) -> None:
    if not_due is None:
        with pytest.raises(SpecError, match="no tick of 0 3"):
            find_ticks(parse_cron(cron), start, end, NOW)
        return

    ticks, later = find_ticks(parse_cron(cron), start, end, NOW)

    assert ([tick_key(tick) for tick in ticks], later) == (due, not_due)


def test_a_day_that_is_the_last_has_all_its_hours_where_the_clocks_are_put_back() -> None:
    ticks, _ = find_ticks(parse_cron("0 * * * *", "Europe/Berlin"), "2026-10-25", "2026-10-25", NOW)

    assert len(ticks) == len({tick_key(tick) for tick in ticks}) == 25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from", "2026-11-03", "--to", "2026-11-01"), "--from 2026-11-03: is later than --to 2026-11-01"),
        (("--from", "yesterday", "--to", "2026-11-01"), "--from yesterday: is no time"),
        (("--from", "2026-11-01", "--to", "2026-11-02", "--cron", "0 * * * *"), "add {{ hour }} to the path"),
        (("--from", "1970-01-01", "--to", "2026-11-02"), "more than 10,000 ticks"),
        (("--from", "2026-11-01", "--to", "2026-11-02", "--set", "output.path=a"), "names no time field"),
    ],
)
def test_a_wrong_range_is_one_line(daily: Path, options: tuple[str, ...], said: str) -> None:
    code, _, errors = avbatch("backfill", daily, *options)

    assert code == 2
    assert said in errors


def test_runs_are_listed_with_their_states_wherever_they_lie(small: dict[str, Any], s3_server: StoreServer) -> None:
    for root, options in (
        (f"memory://{uuid.uuid4().hex}/runs", {}),
        (s3_server.new_url(), s3_server.options),
    ):

        def output(name: str, root: str = root, options: dict[str, Any] = options) -> dict[str, Any]:
            return {"path": f"{root}/{name}", "storage_options": options}

        run(load_job({**small, "output": output("{{ year }}/{{ month }}/{{ day }}")}, scheduled_at=at(2)))
        run({**small, "output": output("2026/11/03"), "backend": {"kind": "procedural", "fail_when": "fox"}})
        execution = {**small["execution"], "budget": {"requests": 1}}
        run({**small, "output": output("other"), "execution": execution})
        open_store(root, options).put("broken/run.json", b"{")
        open_store(root, options).put("2026/11/notes.txt", b"no run")

        found = {one.path.removeprefix(f"{root}/"): one for one in list_runs(root, options)}

        assert {name: one.state for name, one in found.items()} == {
            "2026/11/02": "complete",
            "2026/11/03": "failed rows",
            "broken": "broken",
            "other": "incomplete",
        }
        assert found["2026/11/02"].scheduled_at == at(2)
        assert (found["2026/11/03"].succeeded, found["2026/11/03"].failed) == (1, 1)
        assert (found["other"].shards_done, found["other"].shards) == (1, 2)
        assert "not JSON" in str(found["broken"].problem)
        assert [one.path for one in list_runs(root, options, depth=1)] == [f"{root}/broken", f"{root}/other"]
        assert [one.state for one in list_runs(f"{root}/other", options)] == ["incomplete"]


def test_the_inside_of_a_run_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "run" / "artifacts" / "inner").mkdir(parents=True)
    for folder in (tmp_path / "run", tmp_path / "run" / "artifacts" / "inner"):
        (folder / "run.json").write_text("{}")

    assert list_runs(tmp_path) == [
        RunState(
            path=str(tmp_path / "run"),
            state="broken",
            problem=f"{tmp_path}/run/run.json: not a run of avbatch; choose another output or remove it",
        )
    ]


def test_runs_are_printed_as_a_table_or_as_json(daily: Path, tmp_path: Path) -> None:
    run(load_job(yaml.safe_load(daily.read_text()), scheduled_at=at(2)))

    header, row, _, last = avbatch("runs", tmp_path / "runs")[1].splitlines()
    assert header.split() == ["RUN", "NAME", "SCHEDULED", "AT", "STATE", "ROWS", "STARTED"]
    assert row.startswith("2026-11-02  small  2026-11-02T00:00+00:00  complete  2 of 2  ")
    assert last == f"1 run at {tmp_path / 'runs'}"
    (found,) = json.loads(avbatch("runs", tmp_path, "--json")[1])["runs"]
    assert (found["state"], found["requests"]) == ("complete", 2)
    assert avbatch("runs", tmp_path / "runs" / "2026-11-02" / "report")[1].startswith("no runs at ")
    code, _, errors = avbatch("runs", tmp_path / "nothing")
    assert (code, "no such folder" in errors) == (2, True)
