"""Drivers that are killed at a point, forked by a zygote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The folder that has `tests`.
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one command ended."""

    exit_code: int
    out: str
    err: str
    points: list[str]
    """It reached these."""

    @property
    def said(self) -> Any:
        """What `--json` printed."""
        return json.loads(self.out)

    @property
    def writes(self) -> set[str]:
        """Names that it wrote, or began to."""
        return {point.rpartition(": ")[0].split(" ", 1)[-1] for point in self.points if ": " in point}


class Driver:
    """A process that runs commands."""

    def __init__(self, zygote: Zygote, pid: int, folder: Path, commands: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self._folder = folder
        self._commands = commands

    def wait(self) -> list[Ended]:
        """How each command ended, in order; the driver was not killed."""
        status = self._zygote.ask({"wait": self.pid})["status"]
        assert status == 0, f"the driver ended with status {status}, having reached {self._points(0)[-3:]}"
        return [self._ended(number) for number in range(self._commands)]

    def wait_for_kill(self) -> list[str]:
        """The points that it reached before it was killed."""
        status = self._zygote.ask({"wait": self.pid})["status"]
        points = self._points(0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"not killed, having reached {points}"
        return points

    def wait_for_end(self) -> list[str]:
        """The points that it reached, killed or not."""
        self._zygote.ask({"wait": self.pid})
        return self._points(0)

    def _ended(self, number: int) -> Ended:
        said = json.loads((self._folder / f"{number}.json").read_text())
        return Ended(**said, points=self._points(number))

    def _points(self, number: int) -> list[str]:
        return (self._folder / f"{number}.log").read_text().splitlines()


class Zygote:
    """Forks drivers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        # One thread each; and what a killed driver leaves in the folder of temporary files goes with the test's.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        environment |= {"TMPDIR": str(self.temporary), "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crash.zygote"],
            cwd=folder,  # which git knows nothing of, and is soon done with
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def start(
        self,
        commands: Sequence[Sequence[str]],
        root: str,
        *,
        kill_at: str | None = None,
        meet_at: str | None = None,
        meeting: Path | None = None,
        faults: Sequence[str] = (),
    ) -> Driver:
        """A driver that runs commands one after the other.

        Args:
            commands: Arguments of `avbatch`, of each.
            root: Of the run, as `Points` has it.
            kill_at: The point of the first command at which it is killed.
            meet_at: A point of the first command at which it waits for another driver.
            meeting: A folder that the two share.
            faults: Of `FAULTS`.
        """
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        request = {
            "commands": [list(one) for one in commands],
            "folder": str(folder),
            "root": root,
            "environment": {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "RAY_"))},
            "faults": list(faults),
            "kill_at": kill_at,
            "meet_at": meet_at,
            "meeting": None if meeting is None else str(meeting),
        }
        return Driver(self, self.ask({"start": request})["pid"], folder, len(commands))

    def run(self, *commands: Sequence[str], root: str, faults: Sequence[str] = ()) -> list[Ended]:
        """How commands end, one after the other."""
        return self.start(commands, root, faults=faults).wait()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the zygote ended"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
