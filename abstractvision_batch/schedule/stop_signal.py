"""Waiting that a signal ends at once: Ctrl-C, SIGTERM, and a child process that ended.

Time passes by the wall clock, so a wait is one of bounded slices: after a machine slept, or its clock was set, the
caller looks at the clock again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

MAX_SLICE_S = 10.0


class StopSignal:
    """Counts SIGINT and SIGTERM, and lets `wait` return early.

    A context manager; outside the main thread it never sees any signal.
    """

    def __init__(self) -> None:
        self.stop_requests = 0
        self._previous: dict[int, Any] = {}
        self._previous_descriptor = -1
        self._reader, self._writer = -1, -1

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        if threading.current_thread() is threading.main_thread():
            self._previous_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)
            self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._previous_descriptor)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float) -> None:
        """Return after so long, or `MAX_SLICE_S`, or when a signal came, whichever is first."""
        ready, _, _ = select.select([self._reader], [], [], min(max(seconds, 0.0), MAX_SLICE_S))
        if ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._reader, 1024):
                    pass

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requests += 1
