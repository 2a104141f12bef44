"""Which executors there are. Each runs shards through the same shard runner; Ray is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from abstractvision_batch.errors import OptionalDependencyMissingError
from abstractvision_batch.execute.context import Work
from abstractvision_batch.execute.executor_choice import INSTALL_RAY, choose_executor
from abstractvision_batch.execute.inline_executor import run_shards_inline
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.job.model import JobSpec


def require_executor(*specs: JobSpec) -> None:
    """Check that what a job's executor imports is installed, without importing it.

    Raises:
        OptionalDependencyMissingError: it is not; the message has the pip command.
    """
    choice = choose_executor(*specs)
    if choice.executor == "ray" and find_spec("ray") is None:
        raise OptionalDependencyMissingError(f"ray is not installed, and {choice.why} ({INSTALL_RAY}, or use inline)")


def run_shards(
    work: Work,
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
    on_rows: Callable[[int, int], None],
    on_shard: Callable[[ShardSummary], None],
) -> None:
    """Run shards on the chosen executor until they are done, an interrupt drains the run, or the budget is used up."""
    if work[0][0].choice.executor == "ray":
        from abstractvision_batch.execute.ray.executor import run_shards_ray

        run_shards_ray(work, interrupts=interrupts, guard=guard, on_rows=on_rows, on_shard=on_shard)
    else:
        run_shards_inline(work, interrupts=interrupts, guard=guard, on_rows=on_rows, on_shard=on_shard)
