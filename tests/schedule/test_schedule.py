"""Schedules with real processes and real seconds: each tick makes one run, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec
from abstractvision_batch.job.scheduled_time import tick_key
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.schedule.cron import parse_cron
from abstractvision_batch.schedule.scheduler import ScheduleEvent, ScheduleOptions, jitter_of
from abstractvision_batch.schedule.state import KEPT, Tick, open_state, state_path
from abstractvision_batch.schedule.tick_process import (
    is_running,
    judge,
    log_path,
    result_path,
    start_tick,
    tick_words,
)
from tests.support.jobs import MakeJob
from tests.support.journal import read_journal, wait_for
from tests.support.scheduled_job import ScheduledJob, complete_runs

EVERY_SECOND = "* * * * * *"
#: Nothing comes of it by itself while a test runs.
RARELY = "0 0 1 1 *"
QUICK = ScheduleOptions(ticks=1, retry_wait_s=0.1)
#: What a run prints as JSON, without its exit code.
RUN = {"requests": 4, "succeeded": 3, "failed": 1, "generated": 4, "stopped": None, "interrupted": False, "path": "r"}


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> ScheduledJob:
    return ScheduledJob(tmp_path, make_job())


def test_ticks_that_come_while_a_run_runs_wait_in_order_and_an_edit_holds_from_the_next_one_on(
    job: ScheduledJob,
) -> None:
    """And a spec that is broken fails its tick at once, not the schedule."""
    job.write(delay_s=0.2)

    def edit(event: ScheduleEvent) -> None:
        if event.event in ("done", "failed"):
            ended = len(job.told("done", "failed"))
            job.write(modell="x") if ended == 1 else job.write(description=f"after {ended}")

    code = job.schedule(EVERY_SECOND, ScheduleOptions(ticks=3), edit)

    first, second, third = (tick["tick"] for tick in job.state()["ticks"][:3])
    assert code == 2  # of the worst tick
    assert job.told("started", "done", "failed") == [
        ("started", first), ("done", first), ("started", second), ("failed", second), ("started", third),
        ("done", third),
    ]  # fmt: skip
    times = [datetime.fromisoformat(tick["scheduled_at"]) for tick in job.state()["ticks"]]
    assert [later - earlier for earlier, later in pairwise(times)] == [timedelta(seconds=1)] * (
        len(times) - 1
    )  # none was dropped, those that were not begun included
    assert complete_runs(job.runs) == [first, third]
    assert open_run(job.runs / third).record.spec.description == "after 2"
    assert "unknown field" in job.state()["ticks"][1]["said"]


def test_a_spec_may_have_its_time_fields_from_the_one_that_it_extends(job: ScheduledJob) -> None:
    job.spec.rename(job.spec.with_name("base.yaml"))
    job.spec.write_text("extends: base.yaml\ndescription: over it\n")

    code = job.schedule(EVERY_SECOND, QUICK)

    (name,) = complete_runs(job.runs)
    assert (code, name) == (0, job.state()["ticks"][0]["tick"])
    assert open_run(job.runs / name).record.spec.description == "over it"


def test_a_killed_scheduler_s_run_goes_on_and_is_not_begun_again(job: ScheduledJob) -> None:
    job.write(delay_s=0.6)
    words = ["schedule", str(job.spec), "--cron", EVERY_SECOND, "--ticks", "1"]
    scheduler = subprocess.Popen([sys.executable, "-m", "abstractvision_batch", *words], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(read_journal(job.journal)) > 0, "the first request")
    scheduler.kill()
    scheduler.wait()
    (tick,) = [tick for tick in job.state()["ticks"] if tick["state"] == "running"]
    assert is_running(state_path(job.spec).with_suffix(".ticks"), datetime.fromisoformat(tick["scheduled_at"]))

    code = job.schedule(EVERY_SECOND, QUICK)

    assert code == 0
    assert job.told("adopted", "started", "done") == [("adopted", tick["tick"]), ("done", tick["tick"])]
    assert complete_runs(job.runs) == [tick["tick"]]
    assert job.begun().most_common(1)[0][1] == 1
    assert job.begun().total() == 3


@pytest.mark.slow
def test_a_run_that_was_killed_with_its_scheduler_is_resumed_whatever_catch_up_says(job: ScheduledJob) -> None:
    job.write(delay_s=0.3)
    at = datetime(2026, 11, 21, 3, tzinfo=UTC)
    process = start_tick(GivenSpec(job.spec), at, state_path(job.spec).with_suffix(".ticks"))
    assert process is not None and process.pid is not None
    wait_for(lambda: len(read_journal(job.journal)) > 1, "the second request")
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None, "the end")
    job.left_behind(RARELY, at, Tick(at, state="running", attempts=1, pid=process.pid))

    code = job.schedule(RARELY, replace(QUICK, catch_up="none"))

    assert code == 0
    assert job.told("started", "done") == [("started", tick_key(at)), ("done", tick_key(at))]
    assert complete_runs(job.runs) == [tick_key(at)]
    assert len(job.begun()) == 3
    assert job.begun().total() <= 4  # the one in flight once more


def test_a_run_that_ended_after_its_scheduler_is_taken_as_it_ended(job: ScheduledJob) -> None:
    at = datetime(2026, 11, 21, 3, tzinfo=UTC)
    job.left_behind(RARELY, at, Tick(at, state="running", attempts=1, pid=4711))
    folder = state_path(job.spec).with_suffix(".ticks")
    folder.mkdir()
    log_path(folder, at).write_text("generate: 3/3 requests (100%)\n")
    result_path(folder, at).write_text(json.dumps({**RUN, "exit_code": 0}) + "\n")

    assert job.schedule(RARELY, QUICK) == 0
    assert job.told("started", "done") == [("done", tick_key(at))]


@pytest.mark.slow
def test_a_run_that_breaks_off_is_resumed_as_often_as_retries_say(job: ScheduledJob) -> None:
    job.write(delay_s=0.2)

    def kill(event: ScheduleEvent) -> None:
        if event.event == "started" and event.more["attempt"] == 1:
            wait_for(lambda: len(read_journal(job.journal)) > 1, "the second request")
            os.kill(int(event.more["pid"]), signal.SIGKILL)

    code = job.schedule(EVERY_SECOND, replace(QUICK, retries=1), kill)

    tick = job.state()["ticks"][0]
    assert code == 0
    assert [event for event, _ in job.told("started", "retry", "done")] == ["started", "retry", "started", "done"]
    assert (tick["attempts"], tick["failures"], tick["exit_code"]) == (2, 1, 0)
    assert "ended by SIGKILL" in next(event.said for event in job.events if event.event == "retry")
    assert len(job.begun()) == 3
    assert job.begun().total() <= 4


def test_a_stop_lets_the_run_commit_what_it_does_and_the_same_command_goes_on(job: ScheduledJob) -> None:
    job.write(delay_s=0.5)

    def stop(event: ScheduleEvent) -> None:
        if event.event == "started":
            wait_for(lambda: len(read_journal(job.journal)) > 0, "the first request")
            os.kill(os.getpid(), signal.SIGTERM)

    assert job.schedule(EVERY_SECOND, QUICK, stop) == 130
    tick = job.state()["ticks"][0]
    assert (tick["state"], tick["exit_code"]) == ("due", 130)
    assert "the same command goes on" in job.events[-1].said
    begun = job.begun().total()
    assert 1 <= begun < 3

    assert job.schedule(EVERY_SECOND, QUICK) == 0
    assert open_run(job.runs / tick["tick"]).missing_shards() == []
    assert job.begun().total() == 3  # what was drained had committed


def test_a_limit_of_the_spec_fails_the_tick_without_a_retry(job: ScheduledJob) -> None:
    job.write(execution={"batch_size": 1, "shard_size": 1, "budget": {"requests": 1}, "batch_canary": False})

    code = job.schedule(EVERY_SECOND, QUICK)

    assert code == 1
    assert [event for event, _ in job.told("started", "retry", "failed")] == ["started", "failed"]
    assert "budget" in job.state()["ticks"][0]["said"]


@pytest.mark.parametrize(
    ("catch_up", "made", "skipped"), [("none", 0, 5), ("last", 1, 4), ("all", 5, 0)], ids=["none", "last", "all"]
)
def test_of_the_ticks_that_were_missed_catch_up_says_which_are_made(
    job: ScheduledJob, catch_up: Any, made: int, skipped: int
) -> None:
    """Told to stop when the first one starts, so that no run need end."""
    now = datetime.now(UTC)
    expression = f"{(now - timedelta(minutes=30)).minute} * * * *"
    missed = list(parse_cron(expression).between(now - timedelta(hours=5), now))
    job.left_behind(expression, now - timedelta(hours=5))

    def stop(event: ScheduleEvent) -> None:
        if event.event in ("started", "waiting"):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    assert job.schedule(expression, replace(QUICK, catch_up=catch_up), stop) == 130

    state = job.state()
    assert [tick["tick"] for tick in state["ticks"]] == [tick_key(tick) for tick in missed[5 - made :]]
    assert sum(one["ticks"] for one in state["skipped"]) == skipped
    assert datetime.fromisoformat(state["seen_until"]) == missed[-1]
    if skipped:
        told = next(event for event in job.events if event.event == "skipped")
        assert (told.more["first"], told.more["ticks"]) == (tick_key(missed[0]), skipped)


def test_two_schedulers_of_one_state_refuse_and_say_who_has_it(job: ScheduledJob) -> None:
    cron, now = parse_cron(RARELY), datetime.now(UTC)
    with (
        open_state(state_path(job.spec), job.spec.resolve(), cron, now),
        pytest.raises(SpecError, match=rf"pid {os.getpid()} on .* runs this schedule"),
    ):
        job.schedule(RARELY, QUICK)


def test_a_state_of_another_schedule_is_refused_with_what_differs(job: ScheduledJob) -> None:
    job.left_behind(RARELY, datetime.now(UTC))

    with pytest.raises(SpecError, match=r"is of another schedule \(cron: 0 0 1 1 \* there, 0 3 \* \* \* here\)"):
        job.schedule("0 3 * * *", QUICK)


def test_ticks_that_would_share_a_folder_are_refused_before_anything_is_written(job: ScheduledJob) -> None:
    job.write(output={"path": str(job.runs / "{{ date }}")})

    with pytest.raises(SpecError, match=r"add \{\{ hour \}\}"):
        job.schedule("0 * * * *", QUICK)
    assert not state_path(job.spec).exists()


def test_ticks_that_ended_long_ago_are_counted_and_their_logs_removed(job: ScheduledJob) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ticks = [Tick(start + timedelta(days=day), state="done") for day in range(KEPT + 3)]
    folder = state_path(job.spec).with_suffix(".ticks")
    folder.mkdir()
    for tick in ticks:
        (folder / f"{tick.key}.log").touch()

    job.left_behind(RARELY, start + timedelta(days=500), *ticks)

    state = job.state()
    assert state["older"] == {"done": 3, "failed": 0, "skipped": 0}
    assert [tick["tick"] for tick in state["ticks"]] == [tick.key for tick in ticks[3:]]
    assert len(list(folder.iterdir())) == KEPT


def test_jitter_is_of_the_tick_and_within_its_bound() -> None:
    ticks = [datetime(2026, 11, 21, hour, tzinfo=UTC) for hour in range(24)]
    delays = [jitter_of(tick, Path("a.yaml"), 60) for tick in ticks]

    assert delays == [jitter_of(tick, Path("a.yaml"), 60) for tick in ticks]
    assert all(0 <= delay < 60 for delay in delays)
    assert max(delays) - min(delays) > 20
    assert delays != [jitter_of(tick, Path("b.yaml"), 60) for tick in ticks]
    assert jitter_of(ticks[0], Path("a.yaml"), 0) == 0


@pytest.mark.parametrize(
    ("code", "result", "verdict", "said"),
    [
        (0, {**RUN, "exit_code": 0}, "done", "3 succeeded, 1 failed"),
        (1, {**RUN, "exit_code": 1}, "done", "3 succeeded, 1 failed"),
        (1, {**RUN, "exit_code": 1, "stopped": "budget: …"}, "failed", "budget"),
        (130, {**RUN, "exit_code": 130, "interrupted": True}, "again", "interrupted"),
        (2, {"exit_code": 2, "problems": ["a.yaml:1:1: wrong", "more"]}, "failed", "wrong (and 1 more)"),
        (2, {"exit_code": 2, "problems": ["unreachable"], "passing": True}, "again", "unreachable"),
        (3, {"exit_code": 3, "problems": ["no model"]}, "again", "no model"),
        (4, {"exit_code": 4, "problems": ["no bucket"]}, "again", "no bucket"),
        (-9, None, "again", "ended by SIGKILL"),
        (1, None, "again", "ended with 1: last words"),  # a bug's traceback
        (None, None, "again", "was killed"),
    ],
)
def test_how_a_process_ended_says_what_becomes_of_its_tick(
    code: int | None, result: dict[str, Any] | None, verdict: str, said: str
) -> None:
    ending = judge(code, result, "last words")

    assert ending.verdict == verdict
    assert said in ending.said


def test_a_tick_s_command_line_has_everything_that_the_schedule_has() -> None:
    given = GivenSpec("a.yaml", ("params.steps=3",), ("cards",))

    words = tick_words(given, datetime(2026, 11, 21, 3, tzinfo=ZoneInfo("Europe/Berlin")))

    assert " ".join(words[3:]) == (
        "run a.yaml --set params.steps=3 --registry cards "
        "--at 2026-11-21T03:00:00+01:00 --timezone Europe/Berlin --json"
    )
