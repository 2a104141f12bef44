"""The driver's view of one actor: where it is, what it was sent, and what that may spend."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.execute.ray_cluster import WorkerLostError
from abstractvision_batch.execute.results import RowResult
from abstractvision_batch.execute.shard_queue import Work
from abstractvision_batch.execute.spending import Grant, SpendingGuard


@dataclass(slots=True)
class Actor:
    """One actor. `calls` are in the order in which it runs them."""

    name: str
    handle: Any
    placing: Any
    loading: Any
    calls: dict[Any, Work] = field(default_factory=dict)
    grants: dict[Any, Grant] = field(default_factory=dict)
    """What those calls may spend; a commit spends nothing."""
    node: str | None = None
    ready: bool = False
    leaving: bool = False
    """Its node is about to go: it gets no more work, and another actor was started in its place."""

    def send(self, work: Work, grant: Grant) -> None:
        """Have it run a shard, or rows of one."""
        if work.indexes:
            reference = self.handle.run_rows.remote(work.shard, work.indexes, grant.tries)
        else:
            reference = self.handle.run_shard.remote(work.shard, grant.tries)
        self.calls[reference] = work
        self.grants[reference] = grant

    def commit(self, shard: int, results: dict[int, RowResult]) -> None:
        """Have it commit a shard whose rows were run in pieces."""
        self.calls[self.handle.commit.remote(shard, results)] = Work(shard)

    def close_grant(self, reference: Any, guard: SpendingGuard, *, begun: bool) -> None:
        """Give back what a call that will not answer was granted, or count it as spent where it had begun."""
        if (grant := self.grants.pop(reference, None)) is None:
            return
        if begun:
            guard.lose(grant)
        else:
            guard.settle(grant, tries=0, usd=None)


@dataclass(slots=True)
class Lost:
    """An actor that is no more, until it is known whether its work or its node was the reason."""

    actor: Actor
    error: WorkerLostError
    asking: Any
    """A call to one that is out of reach, which ends when Ray knows more."""
    at: float = field(default_factory=time.monotonic)
