"""An endpoint that bears k requests at once, k moving, and a client told k: how a limit does, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from abstractvision_batch.backends.openai_compatible.concurrency import AdaptiveLimit
from abstractvision_batch.backends.openai_compatible.retries import AttemptCounts, send_with_retries
from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import BackendBusyError

#: Seconds on the way, there and back.
WIRE_S = 0.001


def in_steps(capacities: Sequence[int], each_s: float) -> Callable[[float], int]:
    """One capacity after the other."""
    return lambda seconds: capacities[min(int(seconds / each_s), len(capacities) - 1)]


@dataclass
class Endpoint:
    """Refuses what is more than `capacity` at once; `flaky` is the share that it refuses without reason."""

    capacity: Callable[[float], int]
    service_s: tuple[float, float] = (0.05, 0.1)
    flaky: float = 0.0
    retry_after_s: float | None = None
    started_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    random: random.Random = field(default_factory=lambda: random.Random(7))
    coming: int = 0
    working_on: int = 0
    most: int = 0
    refused: int = 0
    lost: int = 0
    """Requests that were given up."""
    sent_at: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.started_at

    async def generate(self) -> None:
        self.coming += 1
        await asyncio.sleep(WIRE_S)
        self.coming -= 1
        self.sent_at.append(self.seconds)
        if self.working_on >= self.capacity(self.seconds) or self.random.random() < self.flaky:
            self.refused += 1
            await asyncio.sleep(WIRE_S)
            raise BackendBusyError("429: slow down", overloaded=True, retry_after_s=self.retry_after_s)
        self.working_on += 1
        self.most = max(self.most, self.working_on)
        try:
            await asyncio.sleep(self.random.uniform(*self.service_s))
        finally:
            self.working_on -= 1
        await asyncio.sleep(WIRE_S)


def limit_client(shared: SharedLimit, *, delay_s: float = 0.002) -> Exchange:
    """A shared limit in another process."""

    async def exchange(report: Report) -> Allowance:
        await asyncio.sleep(delay_s)
        allowance = shared.exchange(report)
        await asyncio.sleep(delay_s)
        return allowance

    return exchange


async def answers_within(endpoint: Endpoint, limits: Sequence[AdaptiveLimit], seconds: float, *, at_once: int) -> int:
    """Requests answered by then, of workers that always have `at_once` requests each, waiting ones included."""
    answered = 0

    async def ask_on(limit: AdaptiveLimit) -> None:
        nonlocal answered
        while True:
            try:
                await send_with_retries(
                    endpoint.generate, limit=limit, timeout_s=60, retries=5, counts=AttemptCounts(), what="it"
                )
                answered += 1
            except BackendBusyError:
                endpoint.lost += 1

    work = [asyncio.create_task(ask_on(limit)) for limit in limits for _ in range(at_once)]
    await asyncio.sleep(seconds)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    return answered


async def answers_of_one_who_is_told(endpoint: Endpoint, seconds: float) -> int:
    """The same of a client that knows the capacity and is there at once: the most that can be had."""
    answered = 0

    async def ask() -> None:
        nonlocal answered
        await endpoint.generate()
        answered += 1

    work: list[asyncio.Task[None]] = []
    while endpoint.seconds < seconds:
        running = [task for task in work if not task.done()]
        more = endpoint.capacity(endpoint.seconds + WIRE_S) - endpoint.working_on - endpoint.coming
        work = running + [asyncio.create_task(ask()) for _ in range(more)]
        await asyncio.sleep(0.002)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    return answered
