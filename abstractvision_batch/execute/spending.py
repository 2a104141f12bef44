"""The spending guard: which shard may start, so that a run never costs more than `execution.budget` says.

A shard starts only when every request of it may be tried once within what is left. It is granted a number of tries,
for its requests and for repeating those that fail, and never makes more; when it is done, what it did not use is free
again. Where shards run side by side their grants add up, and near the end a shard waits for what the others give back.
What is counted is in the manifest: `attempts` and `cost_usd` of every row, those of earlier invocations too.

Not covered: what an invocation had in flight when it was killed left no row and is not counted by the next one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from abstractvision_batch.job.model import ExecutionSpec
from abstractvision_batch.registry.prices import PriceSpec, format_usd
from abstractvision_batch.runs.counts import Counts

logger = logging.getLogger(__name__)

#: What sums of prices may be off by, as binary fractions are: of a try.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Grant:
    """What a shard may use: at most this many tries of requests; None for any number."""

    tries: int | None = None
    request_usd: float = field(default=0.0, compare=False)
    """Price of a try."""


class SpendingGuard:
    """What is left of a run's budget. The driver asks before a shard starts and tells what came of it.

    Args:
        execution: The limits.
        price: Of a request; needed where USD are limited.
        spent: What earlier invocations left in the manifest.
        rows: Requests of each shard that may start.
        started: When the invocation did, by the monotonic clock; by default now.
        price_of: The price of a request of a shard, where variants have prices of their own; `price` is the highest.
    """

    def __init__(
        self,
        execution: ExecutionSpec,
        *,
        price: PriceSpec | None = None,
        spent: Counts | None = None,
        rows: Mapping[int, int] | None = None,
        started: float | None = None,
        price_of: Callable[[int], PriceSpec | None] | None = None,
    ) -> None:
        self._budget = execution.budget
        self._max_attempts = execution.max_attempts
        self._request_usd = 0.0 if price is None else price.request_usd
        self._price_of = price_of or (lambda shard: price)
        self._rows = rows or {}
        self._started = time.monotonic() if started is None else started
        self._tries = 0 if spent is None else spent.attempts
        # Rows of invocations that knew no price yet cost what they would now.
        self._usd = 0.0 if spent is None else (spent.cost_usd or 0.0) + spent.unpriced_attempts * self._request_usd
        self._granted = 0
        self._granted_usd = 0.0
        self.stopped: str | None = None
        """Why no further shard may start, and how the run goes on."""

    def grant(self, shard: int, *, requests: int | None = None) -> Grant | None:
        """What a shard, or `requests` of it, may use from now on.

        Returns:
            None where it may not start: never if `stopped` says why, else not before another shard is done.
        """
        if self.is_over():
            return None
        price = self._price_of(shard)
        request_usd = 0.0 if price is None else price.request_usd
        left = self._left(request_usd)
        if left is None:
            return Grant(request_usd=request_usd)
        requests = self._rows[shard] if requests is None else requests
        wanted = requests * self._max_attempts
        if left < wanted and self._granted:
            return None
        if left < requests:
            self.stopped = self.stopped or self._too_little(requests, left, request_usd)
            return None
        grant = Grant(min(wanted, left), request_usd)
        self._granted += grant.tries or 0
        self._granted_usd += (grant.tries or 0) * request_usd
        return grant

    def admits(self, shard: int) -> bool:
        """Whether the shard may start while no other runs; `stopped` says why not."""
        if (grant := self.grant(shard)) is not None:
            self.settle(grant, tries=0, usd=None)
        return grant is not None

    def settle(self, grant: Grant, *, tries: int, usd: float | None) -> None:
        """Take what a granted shard used."""
        self._granted -= grant.tries or 0
        self._granted_usd = self._granted_usd - (grant.tries or 0) * grant.request_usd if self._granted else 0.0
        self._tries += tries
        self._usd += usd or 0.0
        if self._budget.usd is not None and (usd or 0.0) > tries * grant.request_usd * (1 + ROUNDING):
            logger.warning(
                "%d tries cost $%.4f, more than price.request_usd ($%g) allows for: raise it, else a budget is passed",
                tries,
                usd,
                grant.request_usd,
            )

    def lose(self, grant: Grant) -> None:
        """Take that nobody knows what a granted shard used, its worker being dead: as if it had used everything."""
        tries = grant.tries or 0
        self.settle(grant, tries=tries, usd=tries * grant.request_usd)

    def is_over(self) -> bool:
        """Whether no shard may start any more; looks at the time, too."""
        limit_s = self._budget.wall_s
        if limit_s is not None and time.monotonic() - self._started >= limit_s and self.stopped is None:
            self.stopped = (
                f"stopped: execution.budget.wall_s ({limit_s:g}) is over (running again resumes, for as long again)"
            )
        return self.stopped is not None

    def _left(self, request_usd: float) -> int | None:
        """Tries that are neither used nor granted; None where nothing limits them."""
        left = math.inf
        if self._budget.requests is not None:
            left = self._budget.requests - self._tries - self._granted
        if self._budget.usd is not None and request_usd > 0:
            affordable = (self._budget.usd - self._usd - self._granted_usd) / request_usd
            left = min(left, math.floor(affordable + ROUNDING))
        return None if left == math.inf else int(left)

    def _too_little(self, requests: int, left: int, request_usd: float) -> str:
        next_shard = f"the next shard of {requests:,} {'request' if requests == 1 else 'requests'}"
        limit = self._budget.requests
        if limit is not None and limit - self._tries == left:
            used = f"execution.budget.requests: {self._tries:,} of {limit:,} tries are used"
            left_over = f"the {left:,} left" if left > 0 else "what is left"
        else:
            limit_usd = self._budget.usd or 0.0
            used = f"execution.budget.usd: {format_usd(self._usd)} of {format_usd(limit_usd)} is spent"
            next_shard += f", at up to {format_usd(requests * request_usd)},"
            left_over = f"the {format_usd(limit_usd - self._usd)} left" if limit_usd > self._usd else "what is left"
        return f"stopped: {used}, and {next_shard} does not fit in {left_over} (raise it; running again resumes)"
