"""The law of the limit of requests in flight, by simulation: the real limiter and retries in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from abstractvision_batch.backends.openai_compatible.concurrency import AdaptiveLimit
from abstractvision_batch.backends.openai_compatible.retries import AttemptCounts, send_with_retries
from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import BackendBusyError
from tests.support.simulated_endpoint import (
    Endpoint,
    answers_of_one_who_is_told,
    answers_within,
    in_steps,
    limit_client,
)
from tests.support.virtual_time import run_in_virtual_time

MOVING = in_steps([4, 16, 8, 32, 3], 4.0)
SECONDS = 20.0


@pytest.fixture(autouse=True)
def same_jitter() -> None:
    random.seed(7)


def shared_by(workers: int, maximum: int) -> list[AdaptiveLimit]:
    shared = SharedLimit(maximum, clock=asyncio.get_running_loop().time)
    return [AdaptiveLimit(maximum, exchange=limit_client(shared), worker=str(number)) for number in range(workers)]


def told(capacity: Callable[[float], int], seconds: float = SECONDS) -> int:
    async def work() -> int:
        return await answers_of_one_who_is_told(Endpoint(capacity), seconds)

    return run_in_virtual_time(work())


def test_a_capacity_that_moves_is_used_to_nine_tenths_and_no_request_is_lost() -> None:
    async def work() -> tuple[int, Endpoint]:
        endpoint = Endpoint(MOVING)
        return await answers_within(endpoint, [AdaptiveLimit(64)], SECONDS, at_once=96), endpoint

    answered, endpoint = run_in_virtual_time(work())

    assert answered > 0.9 * told(MOVING)
    assert endpoint.refused < 0.1 * answered
    assert endpoint.lost == 0


def test_workers_that_share_a_limit_use_the_capacity_as_one_does() -> None:
    async def work() -> tuple[int, Endpoint]:
        endpoint = Endpoint(MOVING)
        return await answers_within(endpoint, shared_by(3, 64), SECONDS, at_once=32), endpoint

    answered, endpoint = run_in_virtual_time(work())

    assert answered > 0.88 * told(MOVING)
    assert endpoint.refused < 0.1 * answered
    assert endpoint.lost == 0


def test_many_workers_that_share_are_refused_less_than_many_that_do_not() -> None:
    async def work(shared: bool) -> tuple[int, int]:
        endpoint = Endpoint(lambda seconds: 6)
        limits = shared_by(10, 64) if shared else [AdaptiveLimit(64) for _ in range(10)]
        return await answers_within(endpoint, limits, 10.0, at_once=10), endpoint.refused

    together, refused_together = run_in_virtual_time(work(True))
    alone, refused_alone = run_in_virtual_time(work(False))

    assert refused_together / together < 0.5 * refused_alone / alone


def test_the_maximum_is_reached_and_is_the_total_of_all_workers() -> None:
    async def work() -> Endpoint:
        endpoint = Endpoint(lambda seconds: 1000)
        await answers_within(endpoint, shared_by(4, 40), 10.0, at_once=40)
        return endpoint

    endpoint = run_in_virtual_time(work())

    assert endpoint.most == 40
    assert endpoint.refused == 0


def test_a_refusal_now_and_then_without_reason_costs_little() -> None:
    async def work() -> int:
        endpoint = Endpoint(lambda seconds: 16, flaky=0.02)
        return await answers_within(endpoint, [AdaptiveLimit(64)], SECONDS, at_once=64)

    assert run_in_virtual_time(work()) > 0.85 * told(lambda seconds: 16)


def test_retry_after_holds_every_worker() -> None:
    async def work() -> Endpoint:
        endpoint = Endpoint(in_steps([4, 2], 3.0), retry_after_s=2.0)
        await answers_within(endpoint, shared_by(3, 4), 6.0, at_once=8)
        return endpoint

    endpoint = run_in_virtual_time(work())

    # The last to hear of it hear within the time between two reports.
    silent = [at for at in endpoint.sent_at if 3.2 < at < 5.0]
    assert endpoint.refused > 0
    assert silent == []
    assert any(at > 5.0 for at in endpoint.sent_at)


def test_an_endpoint_that_refuses_everything_ends_every_request_soon_and_is_not_pressed() -> None:
    async def work() -> tuple[list[BaseException | None], float, Endpoint]:
        endpoint = Endpoint(lambda seconds: 0)
        limit = AdaptiveLimit(16, patience=5)
        ask = [
            send_with_retries(
                endpoint.generate, limit=limit, timeout_s=600, retries=5, counts=AttemptCounts(), what="it"
            )
            for _ in range(100)
        ]
        outcomes = await asyncio.gather(*ask, return_exceptions=True)
        return [one for one in outcomes if isinstance(one, BaseException)], endpoint.seconds, endpoint

    errors, seconds, endpoint = run_in_virtual_time(work())

    assert len(errors) == 100
    assert all(isinstance(error, BackendBusyError) for error in errors)
    assert "429: slow down (it refused the last 9 requests in 64 s, and worked on none" in str(errors[0])
    assert 50 < seconds < 90
    assert len(endpoint.sent_at) < 16 + 9


def test_a_request_that_is_always_refused_ends_with_its_time_and_holds_up_nobody() -> None:
    async def work() -> tuple[int, str]:
        endpoint = Endpoint(lambda seconds: 8)
        limit = AdaptiveLimit(16)

        async def refuse() -> None:
            await asyncio.sleep(0.001)
            raise BackendBusyError("429: not you", overloaded=True)

        poison = asyncio.create_task(
            send_with_retries(refuse, limit=limit, timeout_s=30, retries=5, counts=AttemptCounts(), what="the poison")
        )
        answered = await answers_within(endpoint, [limit], 40.0, at_once=16)
        (error,) = await asyncio.gather(poison, return_exceptions=True)
        return answered, str(error)

    answered, error = run_in_virtual_time(work())

    assert answered > 0.85 * told(lambda seconds: 8, 40.0)
    assert "no result within 30 s" in error or "429: not you (after" in error


def test_workers_go_on_when_the_shared_limit_is_gone_and_come_back_to_it() -> None:
    async def work() -> tuple[list[int], Endpoint]:
        endpoint = Endpoint(lambda seconds: 12)
        shared = [SharedLimit(12, clock=asyncio.get_running_loop().time)]

        def frail(number: int) -> Exchange:
            async def exchange(report: Report) -> Allowance:
                if 2.0 < endpoint.seconds < 5.0:
                    raise ConnectionError("the actor died")
                if endpoint.seconds >= 5.0 and len(shared) == 1:
                    shared.append(SharedLimit(12, clock=asyncio.get_running_loop().time))  # restarted, knows nothing
                return await limit_client(shared[-1])(report)

            return exchange

        limits = [AdaptiveLimit(12, exchange=frail(number), worker=str(number)) for number in range(3)]
        await answers_within(endpoint, limits, 10.0, at_once=8)
        per_second = [sum(int(at) == second for at in endpoint.sent_at) for second in range(10)]
        return per_second, endpoint

    per_second, endpoint = run_in_virtual_time(work())

    assert all(sent > 100 for sent in per_second)  # 160 at best
    assert endpoint.most == 12
    assert endpoint.lost == 0


def test_a_worker_that_dies_leaves_its_share_to_the_others() -> None:
    async def work(dropped: bool) -> float:
        loop = asyncio.get_running_loop()
        shared = SharedLimit(8, clock=loop.time)
        shared.exchange(Report("dead", in_flight=0, waiting=8))
        if dropped:
            shared.drop("dead")
        limit = AdaptiveLimit(8, exchange=limit_client(shared), worker="alive")
        started = loop.time()
        async with limit.slot():
            return loop.time() - started

    assert run_in_virtual_time(work(dropped=True)) < 0.1
    assert 10 < run_in_virtual_time(work(dropped=False)) < 20  # when its lease is over
