"""What every executor asks and tells while it runs shards: whether to end, what it may spend, how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.spending import SpendingGuard


@dataclass(frozen=True, slots=True)
class Control:
    """Of one invocation; it stays in the driver."""

    interrupts: Interrupts
    """Polled: a drain lets no shard start, a cancel ends also those that run."""
    guard: SpendingGuard
    """Asked before each shard."""
    on_rows: Callable[[int, int], None] = lambda succeeded, failed: None
    """Called with the (succeeded, failed) rows of shards that are not committed yet."""
    on_shard: Callable[[ShardSummary], None] = lambda summary: None
    """Called after each commit."""
