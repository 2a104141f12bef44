"""A process that cannot outlive this one, its log, and the steps that the log tells of.

Every mode prints the same log: lines, and a progress bar redrawn with carriage returns.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from abstractvision_batch.errors import DependencyError

_GUARD = Path(__file__).with_name("guard.py")
_KEPT_LINES = 400
_STEP = re.compile(r"(\d+)/(\d+) - [\d.]+ ?(?:s/it|it/s)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ENDED_BY_SIGNAL = 128
_MEMORY = re.compile(r"out of memory|failed to allocate|alloc(ation)? .*failed|bad_alloc", re.IGNORECASE)


class Child:
    """A process group of its own, with a thread that reads its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: int, *, end_of_log: str | None = None) -> None:
        self.process = process
        self._end_of_log = end_of_log
        self._log_ended = threading.Event()
        self.steps: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._log = log
        self._reader = threading.Thread(target=self._read_log, daemon=True, name="sdcpp-log")
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end, but no longer than this."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return not self.alive

    def kill(self) -> None:
        """End the process and whatever it started, and wait for it. May be called more than once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # unsent bytes to a process that is gone
                    stream.close()

    def wait_for_end(self) -> str:
        """Wait for the exit and the rest of the log; say how it ended, empty for a success."""
        status = self.process.wait()
        self._reader.join()
        return describe_status(status)

    def clear_log(self) -> None:
        """Forget what was printed so far, and the steps in it."""
        self._lines.clear()
        while not self.steps.empty():
            self.steps.get_nowait()

    def read_log_to_its_end(self, timeout_s: float = 5.0) -> None:
        """Wait for the line that ends the log of a failed operation: its answer may overtake it."""
        if self._log_ended.wait(timeout_s):
            self._log_ended.clear()

    def log_lines(self) -> list[str]:
        """The last lines that were printed."""
        return list(self._lines)

    def explain(self) -> str:
        """The last errors and warnings of the log, or else its last lines, on one line."""
        lines = self.log_lines()
        telling = [line for line in lines if "[ERROR]" in line or "[WARN" in line or "GGML_A" in line] or lines
        return " | ".join(telling[-5:])[-800:] or "it printed nothing"

    def ran_out_of_memory(self) -> bool:
        """Whether the log says so."""
        return any(_MEMORY.search(line) for line in self.log_lines())

    def _read_log(self) -> None:
        rest = b""
        with suppress(OSError):  # a terminal's end is an error, a pipe's is not
            while data := os.read(self._log, 65536):
                *lines, rest = re.split(rb"[\r\n]", rest + data)
                for line in lines:
                    self._take(line)
        self._take(rest)
        os.close(self._log)

    def _take(self, raw: bytes) -> None:
        line = " ".join(_COLOUR.sub("", raw.decode(errors="replace")).split())
        step = _STEP.search(line)
        if line == self._end_of_log:
            self._log_ended.set()
        elif step is not None:
            self.steps.put((int(step[1]), int(step[2])))
        elif line and not line.startswith("|"):
            self._lines.append(line[:500])


def start_program(command: Sequence[str], *, cwd: str | None) -> Child:
    """Start a program that ends when this process does.

    Its log goes to a terminal: to a pipe it would be written in blocks, of which a crash loses the last.

    Raises:
        DependencyError: it cannot be started.
    """
    log, terminal = os.openpty()
    try:
        guarded = [sys.executable, "-I", "-S", str(_GUARD), *command]
        return Child(_start(guarded, stdout=terminal, stderr=terminal, cwd=cwd, name=command[0]), log)
    except DependencyError:
        os.close(log)
        raise
    finally:
        os.close(terminal)


def start_script(script: Path, *, cwd: str | None, end_of_log: str) -> Child:
    """Start a Python script that watches its own standard input; its standard error is the log.

    `end_of_log` is the line that it prints there after an operation that failed.

    Raises:
        DependencyError: it cannot be started.
    """
    log, end = os.pipe()
    try:
        command = [sys.executable, "-P", str(script)]
        process = _start(command, stdout=subprocess.PIPE, stderr=end, cwd=cwd, name=script.name)
        return Child(process, log, end_of_log=end_of_log)
    except DependencyError:
        os.close(log)
        raise
    finally:
        os.close(end)


def describe_status(status: int) -> str:
    """Say how a process ended; empty for a success."""
    if status == 0:
        return ""
    number = -status if status < 0 else status - _ENDED_BY_SIGNAL
    if number > 0:
        try:
            return f"it crashed with {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"it ended with status {status}"


def _start(command: list[str], *, stdout: int, stderr: int, cwd: str | None, name: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # else an abort waits for a debugger
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        raise DependencyError(f"{name}: cannot be started ({exc})") from exc
