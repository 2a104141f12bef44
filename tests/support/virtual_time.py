"""Time that passes from event to event: minutes of waiting, deterministic, in milliseconds.

For coroutines `run_in_virtual_time`; for a simulation `VirtualTime`, and the processor time that it takes.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


class _NoFiles(selectors.SelectSelector):
    """Instead of sleeping until the next timer, sets the clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everyone waits and no timer runs: a deadlock")
        self.now += max(0.0, timeout)
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _NoFiles()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_in_virtual_time(work: Coroutine[Any, Any, Value]) -> Value:
    """As `asyncio.run`, for code that only waits for timers and for itself."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


class VirtualTime:
    """A clock that stands still until the next event is stepped to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen so much later; of one moment, in this order."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def step(self, *, until: float) -> bool:
        """Let the next event happen, if it is due by then; whether it did."""
        if not self._events or self._events[0][0] > until:
            return False
        at, _, action = heapq.heappop(self._events)
        self.now = max(self.now, at)
        action()
        return True


class ProcessorTime:
    """Adds up what its bodies take of this thread's processor time."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.spent_s += time.thread_time() - self._began
