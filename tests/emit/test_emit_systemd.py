"""Units that systemd finds nothing wrong with, and that say when and how the job is started, stopped and resumed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emit.conftest import DAILY, Emit, Refuse
from tests.support.emit.unit_words import read_words

ANALYZE = shutil.which("systemd-analyze")
VARIANTS: dict[str, tuple[str, ...]] = {
    "once": (),
    "daily": DAILY,
    "day or weekday": ("--cron", "*/20 4 1,15 * 1-5", "--set", "output.path=s3://bucket/{{ scheduled_at }}"),
    "system": ("--system", "--user-name", "root", "--secret", "HF_TOKEN", *DAILY),
    "odd words": ("--set", 'description="it\'s 100% $HOME \\\\ done"', "--secret", "HF_TOKEN"),
}


def _settings(unit: str) -> list[tuple[str, str]]:
    lines = (line for line in unit.splitlines() if line and line[0] not in "#[")
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed (apt-get install systemd)")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_systemd_finds_nothing_wrong_with_any_unit(options: tuple[str, ...], emit: Emit, tmp_path: Path) -> None:
    folder = tmp_path / "units 100%"
    folder.mkdir()
    names = emit("systemd", *options, "--work-dir", tmp_path)
    for name, text in names.items():
        (folder / name).write_text(text, encoding="utf-8")

    command = ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_timer_is_for_a_schedule_and_what_is_missed_is_made_up_for(emit: Emit) -> None:
    assert list(emit("systemd")) == ["avbatch-small.service"]

    timer = _settings(emit("systemd", *DAILY)["avbatch-small.timer"])

    assert ("OnCalendar", "*-*-* 03:00:00 Europe/Berlin") in timer
    assert ("Persistent", "true") in timer
    assert ("Unit", "avbatch-small.service") in timer


def test_a_service_drains_before_it_is_killed_and_restarts_only_what_may_go_on(emit: Emit) -> None:
    service = dict(_settings(emit("systemd", "--set", "execution.drain_timeout_s=45")["avbatch-small.service"]))

    assert (service["KillSignal"], service["KillMode"], service["TimeoutStopSec"]) == ("SIGTERM", "mixed", "75")
    assert service["RestartPreventExitStatus"] == "1 2 3"
    assert service["SuccessExitStatus"] == "130"


def test_words_arrive_as_they_were_given(emit: Emit) -> None:
    """What systemd reads in ExecStart, by its manual, is the command that was meant."""
    odd = "prompts.source=['it''s 100% \"$HOME\" \\ %n ${A} $$', ';', 'é']"

    exec_start = dict(_settings(emit("systemd", "--set", odd)["avbatch-small.service"]))["ExecStart"]

    words = read_words(exec_start)
    assert words[0] == f"{Path(sys.executable).parent}/avbatch"
    assert words[words.index("--set") + 1] == odd


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "description='two\nlines'"), "has a line break"),
        (("--work-dir", "/a\nb"), "has a line break"),
        (("--work-dir", '/a"b'), "which a unit cannot write"),
        (("--bin-dir", "/it's"), "which a unit cannot write"),
        (("--user-name", "me"), "--user-name: is of --system"),
        (("--system", "--user-name", "a b"), "--user-name: 'a b' is no user's name"),
    ],
)
def test_what_a_unit_cannot_write_is_refused(options: tuple[str, ...], said: str, refuse: Refuse) -> None:
    assert said in refuse("systemd", *options)


def test_output_is_a_folder_whether_there_is_a_timer_or_not(emit: Emit, tmp_path: Path) -> None:
    emit("systemd", *DAILY, "--output", tmp_path / "units")
    emit("systemd", "--name", "once", "--output", tmp_path / "units")

    written = sorted(path.name for path in (tmp_path / "units").iterdir())
    assert written == ["avbatch-small.service", "avbatch-small.timer", "once.service"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed (apt-get install systemd)")
def test_systemd_finds_the_program_whatever_its_folder_is_called(emit: Emit, tmp_path: Path) -> None:
    programs = tmp_path / "100% of my $HOME"
    programs.mkdir()
    (programs / "avbatch").write_text("#!/bin/sh\n", encoding="utf-8")
    (programs / "avbatch").chmod(0o755)
    emit("systemd", "--bin-dir", programs, "--output", tmp_path / "units")

    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "units" / "avbatch-small.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
