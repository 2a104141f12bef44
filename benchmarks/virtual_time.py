"""Time that passes from event to event, and the processor time that passing it takes."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable


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
