"""How many requests are in flight: additive increase, multiplicative decrease, as TCP does it.

A server that answers that it has too many halves the limit, at most once for the requests that were in flight together,
and may ask for a pause that all share; every success raises the limit by a fraction, so that a round of successes
raises it by one.

Not covered: whether a refused request is tried again (`retries`). For one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slot:
    """A request's turn. It says how the request fared; saying nothing leaves the limit as it is."""

    def __init__(self, limit: AdaptiveLimit, started_at: float) -> None:
        self._limit = limit
        self._started_at = started_at

    def succeeded(self) -> None:
        """The server coped."""
        self._limit._raise()

    def overloaded(self, *, pause_s: float = 0.0) -> None:
        """The server had too many requests, and wants none for `pause_s` seconds."""
        self._limit._lower(self._started_at, pause_s)


class AdaptiveLimit:
    """Hands out turns, first come first served, but those who were refused before go first."""

    def __init__(self, maximum: int, *, clock: Callable[[], float] | None = None) -> None:
        self.maximum = maximum
        self.current = float(maximum)
        self.in_flight = 0
        self._clock = clock or asyncio.get_running_loop().time
        self._lowered_at = float("-inf")
        self._paused_until = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self, *, again: bool = False) -> AsyncIterator[Slot]:
        """Wait for a turn and hold it; `again` puts the request before those that never ran."""
        await self._acquire(again)
        try:
            yield Slot(self, self._clock())
        finally:
            self.in_flight -= 1
            self._hand_out()

    async def _acquire(self, again: bool) -> None:
        turn = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in self._waiting:
                    self._waiting.remove(turn)
            else:  # the turn came in the same moment
                self.in_flight -= 1
                self._hand_out()
            raise

    def _hand_out(self) -> None:
        wait_s = self._paused_until - self._clock()
        if wait_s > 0:
            return  # the timer that the pause set comes back here
        while self._waiting and self.in_flight < int(self.current):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def _raise(self) -> None:
        self.current = min(float(self.maximum), self.current + 1 / self.current)

    def _lower(self, started_at: float, pause_s: float) -> None:
        now = self._clock()
        if started_at >= self._lowered_at:  # else it was sent before the last decrease could help
            self.current = max(1.0, self.current / 2)
            self._lowered_at = now
        if pause_s > 0 and now + pause_s > self._paused_until:
            self._paused_until = now + pause_s
            # A hair later, so that the clock is past the pause when the timer fires.
            asyncio.get_running_loop().call_later(pause_s + 0.001, self._hand_out)
