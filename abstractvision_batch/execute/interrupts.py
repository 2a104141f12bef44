"""Ctrl-C and SIGTERM in three steps: drain, cancel, stop at once.

The first lets running shards finish and commit, for as long as they take or the drain's time limit; the second, or that
limit, ends running generation at its next step; the third raises, once: a key that is held sends thirty a second, which
must not end the cleaning up.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from abstractvision_batch.errors import RunInterruptedError

logger = logging.getLogger(__name__)

#: After the third interrupt, further ones mean nothing for as long.
DEAF_S = 2.0
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
        self._raised = float("-inf")
        self._previous: dict[int, Any] = {}

    @property
    def draining(self) -> bool:
        """Whether no new shard may start."""
        return self._stopping or self.count >= 1

    @property
    def interrupted(self) -> bool:
        """Whether a person or the system asked for the end."""
        return self.count >= 1

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
            signal.signal(number, handler if self._raised == float("-inf") else self._receive_late)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            if time.monotonic() < self._raised + DEAF_S:
                return
            self._raised = time.monotonic()
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

    def _receive_late(self, number: int, frame: FrameType | None) -> None:
        """Take a signal after a run that was stopped at once: the third's key may still be down."""
        if time.monotonic() < self._raised + DEAF_S:
            return
        signal.signal(number, self._previous[number])
        signal.raise_signal(number)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM meanwhile: for cleaning up that ends by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
