"""How many requests are in flight: the limiter alone, and the backend before a server with a limit that moves."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend, control_law
from abstractvision_batch.backends.openai_compatible.concurrency import AdaptiveLimit
from abstractvision_batch.errors import BackendBusyError
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, VisionRequest
from tests.support.openai_server import OpenAIServer, running_server


def test_turns_go_in_order_but_the_refused_go_first() -> None:
    async def run() -> list[str]:
        limit = AdaptiveLimit(1)
        order: list[str] = []

        async def take(name: str, *, again: bool = False) -> None:
            async with limit.slot(again=again):
                order.append(name)

        async with limit.slot():
            tasks = [asyncio.create_task(take(name)) for name in ("first", "second")]
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(take("refused", again=True)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == ["refused", "first", "second"]


def test_a_pause_holds_everyone_and_ends() -> None:
    async def run() -> float:
        limit = AdaptiveLimit(4)
        async with limit.slot() as slot:
            slot.refused(BackendBusyError("slow down"), pause_s=0.1)
        started = time.monotonic()
        async with limit.slot():
            return time.monotonic() - started

    assert 0.09 < asyncio.run(run()) < 0.5


def test_who_stops_waiting_leaves_no_gap() -> None:
    async def run() -> int:
        limit = AdaptiveLimit(1)

        async def take() -> None:
            async with limit.slot():
                await asyncio.sleep(0)

        async with limit.slot():
            tasks = [asyncio.create_task(take()) for _ in range(6)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
        # The next in line has its turn already, and leaves before it can use it.
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), limit.slot():
            return limit.in_flight

    assert asyncio.run(run()) == 1


def requests(count: int) -> list[VisionRequest]:
    return [ImageGenerationRequest(f"a fox {n}", width=16, height=16, seed=n) for n in range(count)]


def backend_of(server: OpenAIServer, max_concurrency: int) -> OpenAICompatibleVisionBackend:
    return OpenAICompatibleVisionBackend(
        OpenAICompatibleBackendConfig(server.base_url, timeout_s=30, max_concurrency=max_concurrency, retries=20)
    )


def test_as_many_requests_are_in_flight_as_allowed_and_never_more() -> None:
    with running_server(gate=threading.Barrier(8)) as server, backend_of(server, 8) as backend:
        items = backend.generate_batch(requests(24))

    assert all(isinstance(item, GeneratedAsset) for item in items)
    assert server.most_in_flight == 8
    assert len({one.port for one in server.received}) == 8


def test_a_limit_that_moves_is_followed_and_no_request_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_law, "FIRST_PAUSE_S", 0.02)
    with running_server(delay_s=0.02, capacity=2, retry_after="0.02") as server, backend_of(server, 16) as backend:
        narrow = backend.generate_batch(requests(20))
        refused_while_narrow = len(server.posts) - 20
        server.received.clear()
        server.capacity = 12
        wide = backend.generate_batch(requests(40))

    assert all(isinstance(item, GeneratedAsset) for item in [*narrow, *wide])
    assert refused_while_narrow < 40
    assert len(server.posts) - 40 < 20
    assert server.most_in_flight > 4


def test_the_learned_limit_lasts_from_batch_to_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_law, "FIRST_PAUSE_S", 0.02)
    with running_server(delay_s=0.02, capacity=2) as server, backend_of(server, 32) as backend:
        backend.generate_batch(requests(32))
        refused_at_first = len(server.posts) - 32
        server.received.clear()
        backend.generate_batch(requests(16))

    assert len(server.posts) - 16 < refused_at_first / 2
