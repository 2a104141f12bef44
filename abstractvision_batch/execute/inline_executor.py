"""Run shards in this process, one after the other: the reference that every other executor must equal.

Variants follow each other, so that one model is loaded at a time. One that cannot be loaded, or of which everything
fails, leaves its shards undone; the others are run, and then the error is raised.

Where a server generates, several run side by side, so that it is asked for more while the last requests of a shard end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing

from abstractvision_batch.errors import AbstractVisionError, GenerationCancelledError, RunStoppedError
from abstractvision_batch.execute.context import FAILED_VARIANT, RunContext, Variants, name_failed_variant
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.execute.spending import Grant

POLL_S = 0.1


def run_shards_inline(variants: Variants, control: Control) -> None:
    """Run shards until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        variants: Of the run, each with the numbers of its shards to run.
        control: Its interrupts are also asked between denoising steps; its `on_rows` is called after each batch.

    Raises:
        RunStoppedError: every request fails in the same way.
        DependencyError: the model or a package is missing.
        StorageError: reading the plan or writing failed.
    """
    failed: list[AbstractVisionError] = []
    for context, shards in variants:
        if control.interrupts.draining or control.guard.stopped is not None:
            break
        try:
            _run_variant(context, shards, control)
        except FAILED_VARIANT as error:
            failed.append(name_failed_variant(context, error))
    if failed:
        raise failed[0]


def _run_variant(context: RunContext, shards: Sequence[int], control: Control) -> None:
    """Run shards of one model, which is loaded once and gone at the end."""
    interrupts, guard = control.interrupts, control.guard
    with closing(ShardRunner(context, context.create_backend())) as runner:
        runner.load()
        if context.shards_at_once > 1:
            _run_side_by_side(runner, shards, context.shards_at_once, control)
            return
        for shard in shards:
            if interrupts.draining or (grant := guard.grant(shard)) is None:
                return
            try:
                summary = runner.run_shard(
                    shard, tries=grant.tries, cancelled=interrupts.cancelled, on_rows=control.on_rows
                )
            except GenerationCancelledError:
                return
            guard.settle(grant, tries=summary.tries, usd=summary.cost_usd)
            control.on_shard(summary)
            if isinstance(summary.ended_by, RunStoppedError):
                raise summary.ended_by
            if summary.ended_by is not None:
                return


def _run_side_by_side(runner: ShardRunner, shards: Iterable[int], at_once: int, control: Control) -> None:
    """The same with several shards at a time, on threads; callbacks come from this one.

    Where an error ends one, the others run to their end, which is near if they meet it too, and no other is started.
    """
    interrupts, guard = control.interrupts, control.guard
    waiting = deque(shards)
    running: dict[Future[ShardSummary], Grant] = {}
    rows: dict[int, tuple[int, int]] = {}
    errors: list[Exception] = []
    ended = threading.Event()

    def run(shard: int, tries: int | None) -> ShardSummary:
        def note(succeeded: int, failed: int) -> None:
            rows[shard] = (succeeded, failed)

        def cancelled() -> bool:
            return interrupts.cancelled() or ended.is_set()

        return runner.run_shard(shard, tries=tries, cancelled=cancelled, on_rows=note)

    def start() -> None:
        # One, until its first requests have shown that not everything fails.
        while waiting and len(running) < (at_once if runner.brake.calm else 1) and not (interrupts.draining or errors):
            grant = guard.grant(waiting[0])
            if grant is None:
                return  # until a shard gives back what it did not use, or for good
            running[pool.submit(run, waiting.popleft(), grant.tries)] = grant

    with ThreadPoolExecutor(at_once, thread_name_prefix="shard") as pool:
        try:
            start()
            while running:
                for future in wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED).done:
                    grant = running.pop(future)
                    error = future.exception()
                    if isinstance(error, GenerationCancelledError):
                        continue
                    if isinstance(error, Exception):
                        errors.append(error)
                        continue
                    summary = future.result()
                    rows.pop(summary.shard, None)
                    guard.settle(grant, tries=summary.tries, usd=summary.cost_usd)
                    control.on_shard(summary)
                    if isinstance(summary.ended_by, RunStoppedError):
                        errors.append(summary.ended_by)
                start()
                counts = list(rows.values())
                control.on_rows(sum(succeeded for succeeded, _ in counts), sum(failed for _, failed in counts))
        finally:
            ended.set()  # whatever ends this ends those that still run
    if errors:
        raise errors[0]
