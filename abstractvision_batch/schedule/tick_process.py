"""The process that makes the run of one tick, and how it ended.

A run in a process of its own takes no scheduler with it when it crashes, and outlives a scheduler that was killed. It
holds an open file with a lock on it, so whoever comes after sees that it still runs, and for which tick:

    <folder>/2026-11-21T0300Z.log     what it prints on stderr; locked while it runs
    <folder>/2026-11-21T0300Z.json    its result, once it ended by itself

Its own children do not inherit the lock. Not covered: whether to start it again (`schedule`, `backfill`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from abstractvision_batch.errors import StorageError
from abstractvision_batch.job.load import GivenSpec
from abstractvision_batch.job.scheduled_time import tick_key

Verdict = Literal["done", "failed", "again"]
_TAIL_BYTES = 4096


def tick_words(given: GivenSpec, tick: datetime) -> list[str]:
    """Return the command line that runs a spec for a tick."""
    return [sys.executable, "-m", "abstractvision_batch", *replace(given, scheduled_at=tick).argv(), "--json"]


@dataclass(frozen=True, slots=True)
class TickEnding:
    """How the process of a tick ended."""

    verdict: Verdict
    """`done`: every request has a row; `again`: the same command resumes it; `failed`: it would end the same way."""
    exit_code: int | None
    """None where nothing says it."""
    said: str
    path: str | None = None
    """Of the run."""


class TickProcess:
    """The process of a tick: started here, or found running."""

    def __init__(self, tick: datetime, folder: Path, pid: int | None, started: subprocess.Popen[bytes] | None) -> None:
        self.tick = tick
        self.pid = pid
        self._folder = folder
        self._started = started

    @property
    def adopted(self) -> bool:
        """Whether another process started it, so that its end is not told to this one."""
        return self._started is None

    def poll(self) -> TickEnding | None:
        """How it ended; None while it runs."""
        if self._started is not None:
            code = self._started.poll()
            return None if code is None else judge(code, read_result(self._folder, self.tick), self._last_line())
        if is_running(self._folder, self.tick):
            return None
        return judge(None, read_result(self._folder, self.tick), self._last_line())

    def terminate(self) -> None:
        """Ask it to drain; asked again, it cancels what it generates."""
        if self._started is not None:
            self._started.terminate()
        elif self.pid is not None and is_running(self._folder, self.tick):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def _last_line(self) -> str:
        return read_last_line(log_path(self._folder, self.tick))


def start_tick(given: GivenSpec, tick: datetime, folder: Path) -> TickProcess | None:
    """Start the run of a tick; None where its process of another scheduler still runs.

    Raises:
        StorageError: nothing can be written in the folder, or no process be started.
    """
    log = log_path(folder, tick)
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context(log.open("ab"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            # The lock is of one open file, and stderr another one: that may be inherited by what the run starts.
            stderr = opened.enter_context(log.open("ab"))
            stdout = opened.enter_context(result_path(folder, tick).open("wb"))
            process = subprocess.Popen(
                tick_words(given, tick),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(lock.fileno(),),
                # Ctrl-C in a terminal reaches only the scheduler, which passes it on once.
                start_new_session=True,
            )
        except OSError as error:
            raise StorageError(f"{log}: {error.strerror or error}") from error
    return TickProcess(tick, folder, process.pid, process)


def is_running(folder: Path, tick: datetime) -> bool:
    """Whether the process of a tick, of any scheduler, runs."""
    try:
        with log_path(folder, tick).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_result(folder: Path, tick: datetime) -> dict[str, Any] | None:
    """What the process printed when it ended by itself; None where it did not."""
    try:
        text = result_path(folder, tick).read_text(encoding="utf-8")
        result = json.loads(text.strip().rpartition("\n")[2])
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "exit_code" in result else None


def judge(code: int | None, result: Mapping[str, Any] | None, last_line: str = "") -> TickEnding:
    """What the end of a process means for its tick.

    Args:
        code: As of `subprocess`, negative for a signal; None where another process was its parent.
        result: What it printed as JSON, if it did.
        last_line: Of what it printed for people.
    """
    if result is None:
        return TickEnding("again", code, _describe_crash(code, last_line))
    code, path = int(result["exit_code"]), result.get("path")
    if "requests" not in result:  # it did not come to a run
        problems = result.get("problems") or [result.get("error", "ended")]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        wrong = code == 2 and not result.get("passing")  # which an earlier version said
        return TickEnding("failed" if wrong else "again", code, f"{problems[0]}{more}")
    rows = f"{result['succeeded']:,} succeeded, {result['failed']:,} failed"
    if result.get("interrupted"):
        return TickEnding("again", code, f"interrupted: {rows}", path)
    if result.get("stopped"):
        return TickEnding("failed", code, str(result["stopped"]), path)
    if code not in (0, 1):
        return TickEnding("again", code, f"not complete: {rows}", path)
    generated = "" if result["generated"] == result["requests"] else f", {result['generated']:,} of them now"
    return TickEnding("done", code, f"{rows}{generated}", path)


def forget(folder: Path, tick: datetime) -> None:
    """Remove what the processes of a tick left."""
    for path in (log_path(folder, tick), result_path(folder, tick)):
        path.unlink(missing_ok=True)


def log_path(folder: Path, tick: datetime) -> Path:
    """What the process of a tick prints."""
    return folder / f"{tick_key(tick)}.log"


def result_path(folder: Path, tick: datetime) -> Path:
    """Its result."""
    return folder / f"{tick_key(tick)}.json"


def read_last_line(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _describe_crash(code: int | None, last_line: str) -> str:
    if code is None:
        said = "its process was killed"
    elif code < 0:
        said = f"its process was ended by {signal.Signals(-code).name}"
    else:
        said = f"its process ended with {code}"
    return f"{said}: {last_line}" if last_line else said
