"""When to stop: a request or a shard that takes too long, and a run of which too much fails.

A backend is asked to end by its `cancelled` poll. One that does not answer, as native code that hangs, ends with its
process where that is a worker's own (Ray): a dead worker's shard is put back and the request that does it is isolated.
In this process there is no such way, and the run waits.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from abstractvision_batch.errors import GenerationError, RequestTimeoutError, ShardTimeoutError
from abstractvision_batch.job.model import ExecutionSpec

#: A worker that was asked to end has as long again as it had, within these bounds, in seconds.
MIN_GRACE_S, MAX_GRACE_S = 1.0, 30.0
_STDERR = 2


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long one shard, and each request of it, may take; counts from when it is made."""

    execution: ExecutionSpec
    cancelled: Callable[[], bool]
    """Whether the caller asked for the end."""
    guarded: bool = False
    """Whether the process may be ended where a backend does not answer: that of a worker."""
    started: float = field(default_factory=time.monotonic)

    @property
    def shard_over(self) -> bool:
        """Whether the shard has had its time."""
        return self._shard_left_s() <= 0

    @contextmanager
    def forward(self, requests: int) -> Iterator[Callable[[], bool]]:
        """One forward pass: what its backend polls."""
        each = self.execution.request_timeout_s
        seconds = min(float("inf") if each is None else each * requests, self._shard_left_s())
        ends = time.monotonic() + seconds
        guarded = self.guarded and seconds < float("inf")
        if guarded:
            grace = min(MAX_GRACE_S, max(MIN_GRACE_S, seconds))
            # A thread in C, which needs no GIL: code that hangs while it holds it is ended too.
            faulthandler.dump_traceback_later(max(0.0, seconds) + grace, exit=True, file=_STDERR)
        try:
            yield self.cancelled if ends == float("inf") else lambda: self.cancelled() or time.monotonic() > ends
        finally:
            if guarded:
                faulthandler.cancel_dump_traceback_later()

    def timeout(self) -> GenerationError:
        """Why a request was cancelled that the caller did not cancel."""
        if self.shard_over:
            return ShardTimeoutError(
                f"not done when execution.shard_timeout_s ({self.execution.shard_timeout_s:g}) passed"
            )
        return RequestTimeoutError(
            f"no result within execution.request_timeout_s ({self.execution.request_timeout_s:g})"
        )

    def _shard_left_s(self) -> float:
        if self.execution.shard_timeout_s is None:
            return float("inf")
        return self.started + self.execution.shard_timeout_s - time.monotonic()


@dataclass(slots=True)
class RetryBudget:
    """Attempts left to a shard beyond the first of each request; None means unlimited."""

    left: int | None = None

    def take(self, attempts: int) -> bool:
        """Use this many attempts, or none where fewer are left. Returns whether they were used."""
        if self.left is None:
            return True
        if attempts > self.left:
            return False
        self.left -= attempts
        return True


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many rows of a run may fail before it stops."""

    max_failed: int | float | None
    requests: int
    before: int = 0
    """Rows that failed in earlier invocations."""

    def reached(self, failed: int) -> bool:
        """Whether `failed` rows of this invocation are too many."""
        if self.max_failed is None:
            return False
        allowed = self.max_failed * self.requests if isinstance(self.max_failed, float) else self.max_failed
        return self.before + failed > allowed

    def message(self, failed: int) -> str:
        """Why the run stopped and how it goes on."""
        return (
            f"stopped: {self.before + failed:,} of {self.requests:,} requests failed, more than execution.max_failed "
            f"({self.max_failed:g}) allows (fix the cause or raise it; running again resumes)"
        )
