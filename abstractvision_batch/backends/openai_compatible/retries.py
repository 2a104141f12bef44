"""Send a request again after a transient failure: after a random wait, or as long as the server asks.

One deadline bounds a request with all its attempts and waits; waiting for the first turn does not count.

Not covered: which failures are transient (`failures`, `transport`), how many may run (`concurrency`).
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
class AttemptCounts:
    """Counts the attempts of one request, for its metadata."""

    attempts: int = 0
    refused: int = 0
    """Attempts that the server refused for having too many requests."""
    ambiguous: int = 0
    """Attempts that ended after the request was sent and before a reply: the server may have done the work."""
    sending: bool = False
    """An attempt is in flight, or was answered."""
    last: bool = False
    """That attempt is the last, whatever comes of it."""


async def send_with_retries(
    send: Callable[[], Awaitable[Value]],
    *,
    limit: AdaptiveLimit,
    timeout_s: float,
    retries: int,
    counts: AttemptCounts,
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
                    async with limit.slot(again=counts.attempts > 0) as slot:
                        if timer.when() is None:
                            timer.reschedule(loop.time() + timeout_s)
                        counts.attempts += 1
                        counts.sending = True
                        try:
                            value = await send()
                        except BackendBusyError as error:
                            if error.overloaded:
                                counts.refused += 1
                                # Others have no deadline before their turn, so this pause has to have one.
                                slot.refused(error, pause_s=min(error.retry_after_s, MAX_RETRY_AFTER_S, timeout_s))
                            raise
                        slot.answered()
                        return value
                except BackendBusyError as error:
                    counts.sending = False
                    counts.ambiguous += not error.answered
                    wait_s = _wait_s(error, counts)
                    over = timer.when() is not None and loop.time() + wait_s >= (timer.when() or 0.0)
                    again = worth_another(error) and (repeat_unanswered or error.answered)
                    if counts.attempts - counts.refused > retries or over or not again or counts.last:
                        raise _with_counts(error, counts) from error
                await asyncio.sleep(wait_s)
    except TimeoutError as exc:
        tried = _times(counts.attempts)
        if counts.refused:
            tried += f", {counts.refused} of them refused for too many requests"
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


def _wait_s(error: BackendBusyError, counts: AttemptCounts) -> float:
    """Before the next attempt; what was refused waits for its turn anyway, and only lets others go first."""
    if error.overloaded:
        at_most_s = min(MAX_BACKOFF_S, REFUSED_BACKOFF_S * 2 ** min(counts.refused - 1, 20))
        return max(error.retry_after_s, random.uniform(0, at_most_s))
    return next_wait_s(error, counts.attempts - counts.refused)


def next_wait_s(error: BackendBusyError, attempts: int) -> float:
    """Full jitter between attempts, so that those that failed together do not come back together."""
    jitter = random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempts - 1)))
    return error.retry_after_s + 0.1 * jitter if error.retry_after_s else jitter


def _with_counts(error: BackendBusyError, counts: AttemptCounts) -> BackendBusyError:
    wait = f", and it asks to wait {error.retry_after_s:g} s" if error.retry_after_s else ""
    return error.with_message(f"{error} (after {_times(counts.attempts)}{wait})")


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
