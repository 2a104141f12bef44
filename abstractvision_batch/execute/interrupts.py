"""Ctrl-C and SIGTERM in three steps: drain, cancel, stop at once.

The first lets running shards finish and commit, for as long as they take or the drain's time limit; the second, or that
limit, ends running generation at its next step; the third raises.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from abstractvision_batch.errors import RunInterruptedError

logger = logging.getLogger(__name__)

_RESUME = "the same command resumes the run"


class Interrupts:
    """Counts the interrupts of one run. A context manager; outside the main thread it never sees any.

    Args:
        drain_timeout_s: How long running shards have to finish after the first; None: as long as they take.
    """

    def __init__(self, drain_timeout_s: float | None = None) -> None:
        self.count = 0
        self._drain_timeout_s = drain_timeout_s
        self._drain_ends = float("inf")
        self._stopping = False
        self._previous: dict[int, Any] = {}

    @property
    def draining(self) -> bool:
        """Whether no new shard may start."""
        return self._stopping or self.count >= 1

    @property
    def interrupted(self) -> bool:
        """Whether a person or the system asked for the end."""
        return self.count >= 1

    @property
    def cancelled(self) -> bool:
        """Whether running generation should end."""
        return self.count >= 2 or time.monotonic() > self._drain_ends

    def drain(self) -> None:
        """Let running shards finish and commit, and start no other."""
        self._stopping = True

    def arm(self) -> None:
        """Take the signals, also from a library that has put its own handlers in place since."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                found = signal.signal(number, self._receive)
                self._previous.setdefault(number, found)

    def __enter__(self) -> Self:
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            raise RunInterruptedError("stopped at once (run the same command again to resume)")
        if self.count == 2:
            said = "interrupted again: running generation ends at its next step (again: stop at once)"
        elif self._drain_timeout_s is None:
            said = "interrupted: running shards finish and commit, no new ones start (again: cancel them)"
        else:
            self._drain_ends = time.monotonic() + self._drain_timeout_s
            said = (
                f"interrupted: running shards have {self._drain_timeout_s:g} s to finish and commit, no new ones start "
                "(again: cancel them)"
            )
        logger.warning("%s; %s", said, _RESUME)
