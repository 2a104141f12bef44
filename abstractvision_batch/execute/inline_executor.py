"""Run shards in this process, one after the other: the reference that every other executor must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing

from abstractvision_batch.errors import GenerationCancelledError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.execute.spending import SpendingGuard


def run_shards_inline(
    context: RunContext,
    shards: Iterable[int],
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
    on_rows: Callable[[int, int], None],
    on_shard: Callable[[ShardSummary], None],
) -> None:
    """Run shards until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        context: The run.
        shards: Numbers of the shards to run.
        interrupts: Asked between shards and between denoising steps.
        guard: Asked before each shard.
        on_rows: Called after each batch with the (succeeded, failed) rows of shards that are not committed yet.
        on_shard: Called after each commit.

    Raises:
        DependencyError: the model or a package is missing.
        StorageError: reading the plan or writing failed.
    """
    with closing(ShardRunner(context, context.create_backend())) as runner:
        for shard in shards:
            if interrupts.draining or (grant := guard.grant(shard)) is None:
                return
            try:
                summary = runner.run_shard(
                    shard, tries=grant.tries, cancelled=lambda: interrupts.cancelled, on_rows=on_rows
                )
            except GenerationCancelledError:
                return
            guard.settle(grant, tries=summary.tries, usd=summary.cost_usd)
            on_shard(summary)
