"""Time that passes only while nothing else happens: minutes of waiting, deterministic, in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
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
