"""Patience: what failed for a passing reason is tried again, after a random wait or as long as the server asks.

One deadline bounds a request with all its attempts and waits; waiting for the first turn does not count.

Not covered: what a passing reason is (`failures`, `transport`), how many may run (`concurrency`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from abstractvision_batch.backends.openai_compatible.concurrency import AdaptiveLimit
from abstractvision_batch.backends.openai_compatible.failures import MAX_RETRY_AFTER_S
from abstractvision_batch.errors import BackendBusyError

Value = TypeVar("Value")
#: First wait at most, doubled each time: of what failed, and of what was refused.
BACKOFF_S = 0.5
REFUSED_BACKOFF_S = 0.05
MAX_BACKOFF_S = 60.0


@dataclass(slots=True)
class Effort:
    """What a request took, for its metadata."""

    attempts: int = 0
    refused: int = 0
    """Attempts that the server refused for having too many requests."""
    ambiguous: int = 0
    """Attempts that ended after the request was sent and before a reply: the server may have done the work."""
    sending: bool = False
    """An attempt is in flight, or was answered."""
    last: bool = False
    """That attempt is the last, whatever comes of it."""


async def persist(
    send: Callable[[], Awaitable[Value]],
    *,
    limit: AdaptiveLimit,
    timeout_s: float,
    retries: int,
    effort: Effort,
    what: str,
    repeat_unanswered: bool = True,
) -> Value:
    """Call `send` in its turn until it succeeds; again after a lost reply only if `repeat_unanswered`.

    A refusal for too many requests is the limit's to learn from and no failed attempt: `retries` does not count it. It
    ends when the server refuses everything (`AdaptiveLimit`), or with the time.

    Raises:
        BackendBusyError: it failed too often, or the time is over.
        AbstractVisionError: what `send` raised and another attempt would not mend.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as timer:
            while True:
                try:
                    async with limit.slot(again=effort.attempts > 0) as slot:
                        if timer.when() is None:
                            timer.reschedule(loop.time() + timeout_s)
                        effort.attempts += 1
                        effort.sending = True
                        try:
                            value = await send()
                        except BackendBusyError as error:
                            if error.overloaded:
                                effort.refused += 1
                                # Others have no deadline before their turn, so this pause has to have one.
                                slot.refused(error, pause_s=min(error.retry_after_s, MAX_RETRY_AFTER_S, timeout_s))
                            raise
                        slot.answered()
                        return value
                except BackendBusyError as error:
                    effort.sending = False
                    effort.ambiguous += not error.answered
                    wait_s = _wait_s(error, effort)
                    over = timer.when() is not None and loop.time() + wait_s >= (timer.when() or 0.0)
                    again = worth_another(error) and (repeat_unanswered or error.answered)
                    if effort.attempts - effort.refused > retries or over or not again or effort.last:
                        raise _with_effort(error, effort) from error
                await asyncio.sleep(wait_s)
    except TimeoutError as exc:
        tried = _times(effort.attempts)
        if effort.refused:
            tried += f", {effort.refused} of them refused for too many requests"
        raise BackendBusyError(
            f"openai: {what}: no result within {timeout_s:g} s and {tried} (backend.timeout_s)"
        ) from exc


async def repeat(send: Callable[[], Awaitable[Value]], *, retries: int) -> Value:
    """Call `send`, which may be repeated freely, until it succeeds; its caller holds the turn and bounds the time."""
    for attempt in range(1, retries + 2):
        try:
            return await send()
        except BackendBusyError as error:
            if attempt > retries or not worth_another(error):
                # What was generated is lost to this attempt; generating again is the caller's caller's choice.
                error.repeatable = False
                raise
            await asyncio.sleep(next_wait_s(error, attempt))
    raise AssertionError("unreachable")


def worth_another(error: BackendBusyError) -> bool:
    """Whether the server did not forbid another attempt, nor ask for too long a wait."""
    return error.repeatable and error.retry_after_s <= MAX_RETRY_AFTER_S


def _wait_s(error: BackendBusyError, effort: Effort) -> float:
    """Before the next attempt; what was refused waits for its turn anyway, and only lets others go first."""
    if error.overloaded:
        at_most_s = min(MAX_BACKOFF_S, REFUSED_BACKOFF_S * 2 ** min(effort.refused - 1, 20))
        return max(error.retry_after_s, random.uniform(0, at_most_s))
    return next_wait_s(error, effort.attempts - effort.refused)


def next_wait_s(error: BackendBusyError, attempts: int) -> float:
    """Full jitter between attempts, so that those that failed together do not come back together."""
    jitter = random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempts - 1)))
    return error.retry_after_s + 0.1 * jitter if error.retry_after_s else jitter


def _with_effort(error: BackendBusyError, effort: Effort) -> BackendBusyError:
    wait = f", and it asks to wait {error.retry_after_s:g} s" if error.retry_after_s else ""
    return error.with_message(f"{error} (after {_times(effort.attempts)}{wait})")


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
