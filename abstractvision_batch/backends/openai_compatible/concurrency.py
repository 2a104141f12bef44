"""Turns: a request waits for one, holds it while it is in flight, and says how it fared.

How many there are is what a `SharedLimit` grants: one of this backend's own, or the one that the workers of a run
share. A worker that cannot reach it goes on under a limit of its own, no higher than its last grant, and asks on.

Not covered: whether a refused request is tried again (`retries`). For one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import BackendBusyError

logger = logging.getLogger(__name__)

#: The shared limit answers in milliseconds, or it is gone.
EXCHANGE_TIMEOUT_S = 5.0
#: Seconds of refusals for each that is allowed.
PATIENCE_S = 10.0
#: Between attempts to reach it again.
LOST_S = 1.0


class Slot:
    """A request's turn. It says how the request fared; saying nothing leaves the limit as it is."""

    def __init__(self, limit: AdaptiveLimit, epoch: int, started_at: float) -> None:
        self._limit = limit
        self._epoch = epoch
        self._started_at = started_at

    def answered(self) -> None:
        """The server coped."""
        self._limit._note_answer(self._epoch, self._started_at)

    def refused(self, error: BackendBusyError, *, pause_s: float = 0.0) -> None:
        """The server had too many requests, and wants none for `pause_s` seconds."""
        self._limit._note_refusal(error, pause_s, self._started_at)


class AdaptiveLimit:
    """Hands out turns, first come first served, but those who were refused before go first."""

    def __init__(
        self, maximum: int, *, patience: int = 5, exchange: Exchange | None = None, worker: str = "this"
    ) -> None:
        """Start with no turns; the first request asks for them.

        Args:
            maximum: Turns at most.
            patience: Refusals in a row, of a server that works on nothing, after which all that wait are given up; not
                before `PATIENCE_S` for each.
            exchange: The way to the limit that workers share; None for one of its own.
            worker: Its name there.
        """
        self.in_flight = 0
        self._patience = patience
        self._exchange = exchange
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._own = None if exchange else SharedLimit(maximum, clock=self._loop.time)
        self._allowance = Allowance(0, epoch=-1, pause_s=0.0, refusing=0, refusing_s=0.0, report_in_s=LOST_S)
        self._permits = 0
        self._paused_until = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answered = self._refused = 0
        self._epoch, self._latency_s, self._pause_s, self._refusal_s = -1, 0.0, 0.0, 0.0
        self._sent_epoch, self._sent_at = -1, 0.0
        self._due: asyncio.TimerHandle | None = None
        self._last_refusal: BackendBusyError | None = None
        self._reported = 0
        self._talking: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and nothing waits."""
        return not self.in_flight and not self._waiting

    @asynccontextmanager
    async def slot(self, *, again: bool = False) -> AsyncIterator[Slot]:
        """Wait for a turn and hold it; `again` puts the request before those that never ran.

        Raises:
            BackendBusyError: the server refuses everything; it is not `repeatable`.
        """
        if again and self._out_of_patience:
            raise self._given_up()
        await self._acquire(again)
        slot = Slot(self, self._allowance.epoch, self._loop.time())
        if self._sent_epoch != self._allowance.epoch:
            self._sent_epoch, self._sent_at = self._allowance.epoch, self._loop.time()
        try:
            yield slot
        finally:
            self.in_flight -= 1
            self._changed()

    def close(self) -> None:
        """Say nothing more to the shared limit; what is held there ends with its lease."""
        if self._talking is not None:
            self._talking.cancel()
        if self._due is not None:
            self._due.cancel()

    async def _acquire(self, again: bool) -> None:
        turn = self._loop.create_future()
        if again:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        self._changed()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in self._waiting:
                    self._waiting.remove(turn)
            elif turn.exception() is None:  # the turn came in the same moment
                self.in_flight -= 1
            self._changed()
            raise

    def _note_answer(self, epoch: int, started_at: float) -> None:
        self._answered += 1
        self._latency_s += self._loop.time() - started_at
        self._epoch = max(self._epoch, epoch)

    def _note_refusal(self, error: BackendBusyError, pause_s: float, started_at: float) -> None:
        self._refused += 1
        self._refusal_s = max(self._refusal_s, self._loop.time() - started_at)
        self._pause_s = max(self._pause_s, pause_s)
        self._permits = max(0, self._permits - 1)  # until the limit has heard of it
        self._last_refusal = error

    def _changed(self) -> None:
        """Something may have to be reported, or handed out."""
        if self._own is not None:
            self._apply(self._own.exchange(self._report()))
            if self._due is None and not self.idle:
                self._due = self._loop.call_later(self._allowance.report_in_s, self._report_now)
        if self._exchange is not None:
            self._hand_out()
            demand = self.in_flight + len(self._waiting)
            hungry = demand > self._reported and self.in_flight >= self._permits
            if self._refused or hungry or not demand:
                self._news.set()
            if self._talking is None or self._talking.done():
                self._talking = self._loop.create_task(self._talk(self._exchange))

    def _report_now(self) -> None:
        self._due = None
        self._changed()

    async def _talk(self, exchange: Exchange) -> None:
        """Report until nothing is left to report: at once what matters to others, the rest when it is due."""
        while True:
            self._news.clear()
            report = self._report()
            try:
                allowance = await asyncio.wait_for(exchange(report), EXCHANGE_TIMEOUT_S)
            except (ConnectionError, TimeoutError) as exc:
                if self._own is None:
                    logger.warning("the run's shared limit of requests is out of reach, going on alone: %s", exc)
                    self._own = SharedLimit(max(1, self._allowance.permits), clock=self._loop.time)
                    self._apply(self._own.exchange(report))
                if self.idle:
                    return
                await asyncio.sleep(LOST_S)
                continue
            self._own = None
            self._apply(allowance)
            if self.idle and not (report.in_flight or report.waiting):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), allowance.report_in_s)

    def _report(self) -> Report:
        report = Report(
            self._worker,
            in_flight=self.in_flight,
            waiting=len(self._waiting),
            answered=self._answered,
            epoch=self._epoch,
            sent_epoch=self._sent_epoch,
            sent_s=self._loop.time() - self._sent_at,
            refused=self._refused,
            refusal_s=self._refusal_s,
            pause_s=self._pause_s,
            latency_s=self._latency_s / self._answered if self._answered else 0.0,
        )
        self._answered = self._refused = 0
        self._epoch, self._latency_s, self._pause_s, self._refusal_s = -1, 0.0, 0.0, 0.0
        self._reported = report.in_flight + report.waiting
        return report

    def _apply(self, allowance: Allowance) -> None:
        before, self._allowance = self._allowance, allowance
        self._permits = allowance.permits
        until = self._loop.time() + allowance.pause_s
        if allowance.pause_s > 0 and until > self._paused_until + 0.001:
            self._paused_until = until
            # A hair later, so that the clock is past the pause when the timer fires.
            self._loop.call_later(allowance.pause_s + 0.001, self._hand_out)
        if self._out_of_patience and allowance.refusing > before.refusing:
            for turn in self._waiting:
                if not turn.done():
                    turn.set_exception(self._given_up())
            self._waiting.clear()
        self._hand_out()

    @property
    def _out_of_patience(self) -> bool:
        """Whether the server refuses everything, and not just while others keep it busy."""
        now = self._allowance
        return now.refusing > self._patience and now.refusing_s >= self._patience * PATIENCE_S

    def _hand_out(self) -> None:
        if self._loop.time() < self._paused_until:
            return  # the timer that the pause set comes back here
        while self._waiting and self.in_flight < self._permits:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def _given_up(self) -> BackendBusyError:
        error = self._last_refusal or BackendBusyError("openai: the server has too many requests", overloaded=True)
        now = self._allowance
        why = f"it refused the last {now.refusing} requests in {now.refusing_s:.0f} s, and worked on none of this run's"
        error = error.with_message(f"{error} ({why})")
        error.repeatable = False
        return error
