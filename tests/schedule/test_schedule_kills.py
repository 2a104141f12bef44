"""A scheduler that is killed at any moment, often with its runs: each tick still makes one run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from abstractvision_batch.runs.opened import open_run
from tests.support.jobs import MakeJob
from tests.support.scheduled_job import ScheduledJob

KILLS = 12
SECONDS_BETWEEN_TICKS = 3


@pytest.mark.slow
@pytest.mark.parametrize("max_running", [1, 3])
def test_every_tick_makes_one_run_however_often_the_scheduler_is_killed(
    max_running: int, make_job: MakeJob, tmp_path: Path
) -> None:
    job = ScheduledJob(tmp_path, make_job())
    job.write(delay_s=0.3)
    chance = random.Random(max_running)
    options = ["--cron", f"*/{SECONDS_BETWEEN_TICKS} * * * * *", "--max-running", str(max_running)]
    command = [sys.executable, "-m", "abstractvision_batch", "schedule", str(job.spec), *options]
    killed_runs = 0
    for _ in range(KILLS):
        scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(1, 6))
        scheduler.kill()
        scheduler.wait()
        running = [tick for tick in job.state()["ticks"] if tick["state"] == "running"]
        for tick in running if chance.random() < 0.5 else ():
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(tick["pid"], signal.SIGKILL)
                killed_runs += 1

    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(15)
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait() == 130

    ticks = job.state()["ticks"]
    times = [datetime.fromisoformat(tick["scheduled_at"]) for tick in ticks]
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=SECONDS_BETWEEN_TICKS)}
    done = [tick["tick"] for tick in ticks if tick["state"] == "done"]
    assert {tick["state"] for tick in ticks} <= {"done", "due"}
    assert len(done) > KILLS / 2
    assert all(open_run(job.runs / name).missing_shards() == [] for name in done)
    assert len(job.begun()) >= 3 * len(done)
    assert job.begun().total() - len(job.begun()) <= killed_runs  # what was in flight once more
