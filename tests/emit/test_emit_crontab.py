"""The line of a crontab, read as cron reads it and run as cron runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.emit.conftest import DAILY, Emit, Refuse
from tests.support.emit.cron_line import cron_command
from tests.support.emit.stand_in import ENDINGS, count_starts, ends_in_turn
from tests.support.jobs import MakeJob


def _environment() -> dict[str, str]:
    """What cron gives a command, and where this package is."""
    return {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/", "PYTHONPATH": os.pathsep.join(sys.path)}


def test_the_line_says_when_and_in_whose_time(emit: Emit) -> None:
    lines = emit("crontab", *DAILY)["avbatch-small.crontab"].splitlines()

    assert lines[-2] == "CRON_TZ=Europe/Berlin"
    assert lines[-1].startswith("0 3 * * * cd ")
    assert "--cron '0 3 * * *' --timezone Europe/Berlin" in lines[-1]


def test_cron_runs_the_line_and_a_second_start_waits_for_none(make_job: MakeJob, emit: Emit, tmp_path: Path) -> None:
    folder = tmp_path / "it's 100% $HOME"
    folder.mkdir()
    data = make_job(
        backend={"kind": "procedural", "delay_s": 0.2},
        output={"path": "run {{ date }}"},
        prompts={"source": ["100% of a fox"]},
        description="{{ date }}",
    )
    spec = folder / "job 50%.yaml"
    spec.write_text(yaml.safe_dump({**data, "description": None}), encoding="utf-8")
    options = ("--cron", "0 0 * * *", "--secret", "TOKEN", "--work-dir", folder)
    (folder / "avbatch-small.env").write_text("TOKEN='a b'\n", encoding="utf-8")
    command = cron_command(emit("crontab", *options, spec=spec)["avbatch-small.crontab"])

    first = subprocess.Popen(["/bin/sh", "-c", command], env=_environment(), cwd="/")
    log, deadline = folder / "avbatch-small.log", time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = subprocess.run(["/bin/sh", "-c", command], env=_environment(), cwd="/", check=False)

    assert second.returncode == 1
    assert int((folder / "avbatch-small.lock").read_text()) == first.pid
    assert first.wait(60) == 0
    (run,) = folder.glob("run *")
    assert (run / "manifest.parquet").is_file()
    assert "4 succeeded" in log.read_text(encoding="utf-8")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("codes", "starts", "code"), ENDINGS)
def test_the_line_starts_a_run_again_after_4_and_70_alone(
    codes: Sequence[int], starts: int, code: int, emit: Emit, tmp_path: Path
) -> None:
    options = (*DAILY, "--bin-dir", ends_in_turn(tmp_path, codes), "--work-dir", tmp_path)
    command = cron_command(emit("crontab", *options)["avbatch-small.crontab"]).replace("sleep 60", "sleep 0")

    done = subprocess.run(["/bin/sh", "-c", command], env=_environment(), cwd="/", check=False)

    assert (count_starts(tmp_path), done.returncode) == (starts, code)


def test_sigterm_to_the_process_of_the_lock_reaches_the_run_and_ends_the_line(emit: Emit, tmp_path: Path) -> None:
    programs = ends_in_turn(tmp_path, ())
    (programs / "avbatch").write_text(
        f"#!/bin/sh\ntrap 'sleep 0.3; exit 4' TERM\ntouch '{tmp_path}/started'\nwhile :; do sleep 0.05; done\n",
        encoding="utf-8",
    )
    options = (*DAILY, "--bin-dir", programs, "--work-dir", tmp_path)
    command = cron_command(emit("crontab", *options)["avbatch-small.crontab"])

    line = subprocess.Popen(["/bin/sh", "-c", command], env=_environment(), cwd="/")
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int((tmp_path / "avbatch-small.lock").read_text()), signal.SIGTERM)

    assert line.wait(30) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--cron: is missing"),
        ((*DAILY, "--set", "description='two\nlines'"), "has a line break or control character"),
        ((*DAILY, "--set", f"description={'x' * 900}"), "are more than the 998 of a crontab's line"),
        (("--cron", "0 3 * * MON#1", *DAILY[2:]), "do not know L and #"),
    ],
)
def test_what_a_crontab_cannot_say_is_refused(options: tuple[str, ...], said: str, refuse: Refuse) -> None:
    assert said in refuse("crontab", *options)
