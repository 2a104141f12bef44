"""Run shards on Ray actors. The only file that imports Ray.

Our own pool on Ray Core: one actor per share of a GPU (or of CPUs), up to two shards in flight each, no restarts by
Ray. A dead actor's shards are put back and a new actor takes its place (`shard_queue`). Actors that cannot be placed
yet stay pending, which is what an autoscaler looks at. Numbers cross the object store, never prompts or pixels.

Not covered: submitting jobs to a cluster; this file joins one or starts one on this machine.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import AbstractVisionError, ClusterError, GenerationCancelledError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.placement import actor_options, number_of_actors
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.results import RowResult, add_up
from abstractvision_batch.execute.shard_queue import ShardQueue, Work
from abstractvision_batch.execute.shard_rows import rows_to_run
from abstractvision_batch.execute.spending import Grant, SpendingGuard
from abstractvision_batch.execute.worker import ProgressBoard, Worker

logger = logging.getLogger(__name__)

#: Shards that an actor holds: the second waits in its queue, so that it never idles for the driver.
IN_FLIGHT = 2
#: Workers that die before any shard was done, in a row, before the run gives up.
MAX_LOADING_DEATHS = 3
POLL_S = 0.25


def _way_to(limit: Any) -> Exchange:
    """How a worker reports to the actor that holds the run's limit of requests in flight."""

    async def exchange(report: Report) -> Allowance:
        try:
            allowance: Allowance = await limit.exchange.remote(report)
        except RayError as exc:
            raise ConnectionError(_first_line(exc)) from exc
        return allowance

    return exchange


def _is_cancelled() -> bool:
    return bool(ray.get_runtime_context().is_canceled())


@dataclass(slots=True)
class _Actor:
    """The driver's view of one actor. `calls` are in the order in which the actor runs them."""

    name: str
    handle: Any
    loading: Any
    calls: dict[Any, Work] = field(default_factory=dict)
    grants: dict[Any, Grant] = field(default_factory=dict)
    """What those calls may spend; a commit spends nothing."""
    ready: bool = False


def run_shards_ray(
    context: RunContext,
    shards: Iterable[int],
    *,
    interrupts: Interrupts,
    guard: SpendingGuard,
    on_rows: Callable[[int, int], None],
    on_shard: Callable[[ShardSummary], None],
) -> None:
    """Run shards on a Ray cluster's actors until they are done, an interrupt drains the run, or the budget is used up.

    Args:
        context: The run.
        shards: Numbers of the shards to run.
        interrupts: Polled by the driver; a drain cancels queued shards, a cancel also running ones.
        guard: Asked before each shard.
        on_rows: Called with the (succeeded, failed) rows of shards that are not committed yet.
        on_shard: Called after each commit.

    Raises:
        DependencyError: the model or a package is missing on a worker.
        StorageError: a worker could not read the plan or write.
        ClusterError: Ray cannot be reached, the cluster cannot hold one actor, or workers die while they load.
    """
    waiting = list(shards)
    with _connected(context.spec.execution.address):
        interrupts.arm()  # ray.init puts a SIGTERM handler of its own in place
        _Pool(context, waiting, interrupts, guard, on_rows, on_shard).run()


class _Pool:
    """The loop: feed idle actors, take what is ready, replace what died."""

    def __init__(
        self,
        context: RunContext,
        shards: list[int],
        interrupts: Interrupts,
        guard: SpendingGuard,
        on_rows: Callable[[int, int], None],
        on_shard: Callable[[ShardSummary], None],
    ) -> None:
        self._context = context
        self._interrupts = interrupts
        self._guard = guard
        self._on_rows = on_rows
        self._on_shard = on_shard
        self._queue = ShardQueue(shards, split=self._batches_of)
        self._options = actor_options(context, ray.cluster_resources())
        self._board = ray.remote(ProgressBoard).options(num_cpus=0).remote()
        # No state that cannot be lost: one that Ray starts again hears from the workers what is in flight.
        self._limit = None
        if context.max_in_flight is not None:
            self._limit = ray.remote(SharedLimit).options(num_cpus=0, max_restarts=-1).remote(context.max_in_flight)
        self._names = (f"worker {number}" for number in itertools.count())
        self._context_ref = ray.put(context)
        number = number_of_actors(context, ray.cluster_resources(), self._options, shards=len(shards))
        self._actors = [self._start_actor() for _ in range(number)]
        self._loading_deaths = 0
        self._drained = self._cancelled = False

    def run(self) -> None:
        try:
            while self._busy() or (len(self._queue) and not self._interrupts.draining):
                self._heed_interrupts()
                self._feed()
                self._take_ready()
                self._report()
        finally:
            for actor in self._actors:
                ray.kill(actor.handle)
            for helper in (self._board, self._limit):
                if helper is not None:
                    ray.kill(helper)

    def _busy(self) -> bool:
        return any(actor.calls for actor in self._actors)

    def _start_actor(self) -> _Actor:
        name = next(self._names)
        exchange = None if self._limit is None else _way_to(self._limit)
        handle = (
            ray.remote(Worker)
            .options(**self._options)
            .remote(self._context_ref, self._board, _is_cancelled, exchange, name)
        )
        return _Actor(name, handle, handle.load.remote())

    def _feed(self) -> None:
        if self._interrupts.draining:
            return
        ready = [actor for actor in self._actors if actor.ready]
        for depth in range(IN_FLIGHT):
            # A second shard only while there are enough for everyone: near the end it would wait behind a busy actor.
            if depth and len(self._queue) < len(self._actors):
                return
            for actor in ready:
                if len(actor.calls) == depth and len(self._queue):
                    work = self._queue.peek()
                    grant = self._guard.grant(work.shard, requests=len(work.indexes) or None)
                    if grant is None:
                        return  # until a shard gives back what it did not use, or for good
                    self._send(actor, self._queue.pop(), grant)

    def _send(self, actor: _Actor, work: Work, grant: Grant) -> None:
        if work.indexes:
            reference = actor.handle.run_rows.remote(work.shard, work.indexes, grant.tries)
        else:
            reference = actor.handle.run_shard.remote(work.shard, grant.tries)
        actor.calls[reference] = work
        actor.grants[reference] = grant

    def _take_ready(self) -> None:
        owners = {actor.loading: actor for actor in self._actors if not actor.ready}
        owners |= {reference: actor for actor in self._actors for reference in actor.calls}
        if not owners:
            return
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_S)
        for reference in ready:
            actor = owners[reference]
            if actor not in self._actors:
                continue  # replaced while this list was worked off
            try:
                answer = ray.get(reference)
            except RayActorError as exc:
                self._replace(actor, exc)
            except TaskCancelledError:
                actor.calls.pop(reference, None)
                if (grant := actor.grants.pop(reference, None)) is not None:
                    self._guard.settle(grant, tries=0, usd=None)  # it had not begun
            except RayTaskError as exc:
                self._fail(actor, reference, exc)
            else:
                self._accept(actor, reference, answer)

    def _accept(self, actor: _Actor, reference: Any, answer: Any) -> None:
        if reference == actor.loading:
            actor.ready = True
            return
        work = actor.calls.pop(reference)
        self._loading_deaths = 0
        grant = actor.grants.pop(reference, None)
        if isinstance(answer, ShardSummary):
            if grant is not None:
                self._guard.settle(grant, tries=answer.tries, usd=answer.cost_usd)
            self._on_shard(answer)
            return
        if grant is not None:
            tries, usd = add_up(answer.values())
            self._guard.settle(grant, tries=tries, usd=usd)
        if (results := self._queue.piece_done(work, answer)) is not None:
            self._commit(actor, work.shard, results)

    def _commit(self, actor: _Actor, shard: int, results: dict[int, RowResult]) -> None:
        reference = actor.handle.commit.remote(shard, results)
        actor.calls[reference] = Work(shard)

    def _fail(self, actor: _Actor, reference: Any, error: RayTaskError) -> None:
        cause = error.cause
        if isinstance(cause, GenerationCancelledError):
            actor.calls.pop(reference, None)
            if (grant := actor.grants.pop(reference, None)) is not None:
                self._guard.lose(grant)
            return
        if isinstance(cause, AbstractVisionError):
            raise cause from error
        raise error

    def _replace(self, actor: _Actor, error: RayActorError) -> None:
        """Put a dead actor's work back, the first of which it died of, and start another actor."""
        self._actors.remove(actor)
        if self._limit is not None:
            self._limit.drop.remote(actor.name)
        works = list(actor.calls.values())
        for number, reference in enumerate(actor.calls):
            if (grant := actor.grants.get(reference)) is not None and number == 0:
                self._guard.lose(grant)
            elif grant is not None:
                self._guard.settle(grant, tries=0, usd=None)
        for work in works[1:]:
            self._queue.put_back(work)
        finished = self._queue.worker_died(works[0]) if works else None
        if not actor.ready:
            self._loading_deaths += 1
            if self._loading_deaths >= MAX_LOADING_DEATHS:
                raise ClusterError(
                    f"{self._loading_deaths} workers died while they loaded {self._context.spec.model}: "
                    f"{_first_line(error)}"
                ) from error
        what = f"shard {works[0].shard}" if works else "loading"
        logger.warning("a worker died during %s; another takes its place: %s", what, _first_line(error))
        replacement = self._start_actor()
        self._actors.append(replacement)
        if finished is not None:
            self._commit(replacement, works[0].shard, finished)

    def _heed_interrupts(self) -> None:
        if self._guard.is_over():
            self._interrupts.drain()
        if self._interrupts.draining and not self._drained:
            self._drained = True
            for actor in self._actors:
                for reference in list(actor.calls)[1:]:
                    ray.cancel(reference)
        if self._interrupts.cancelled and not self._cancelled:
            self._cancelled = True
            for actor in self._actors:
                for reference in actor.calls:
                    ray.cancel(reference)

    def _report(self) -> None:
        running = {work.shard for actor in self._actors for work in actor.calls.values()}
        rows = ray.get(self._board.read.remote(running)).values()
        self._on_rows(sum(succeeded for succeeded, _ in rows), sum(failed for _, failed in rows))

    def _batches_of(self, shard: int) -> list[tuple[int, ...]]:
        table = rows_to_run(self._context.open_store(), self._context.plan, shard, self._context.retry).table
        batches: dict[int, list[int]] = {}
        for index, batch in zip(table["index"].to_pylist(), table["batch_id"].to_pylist(), strict=True):
            batches.setdefault(batch, []).append(index)
        return [tuple(indexes) for indexes in batches.values()]


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Join a cluster or start one, and leave it as it was found."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        options["address"] = address
    elif "RAY_ADDRESS" not in os.environ:
        options["include_dashboard"] = False
    try:
        ray.init(**options)
    except (RayError, ConnectionError, ValueError) as exc:
        raise ClusterError(f"{address or 'ray'}: cannot connect: {_first_line(exc)}") from exc
    except RuntimeError as exc:
        # On a loaded machine the head's own services can miss their deadline once.
        logger.warning("Ray did not start, trying once more: %s", _first_line(exc))
        ray.shutdown()
        try:
            ray.init(**options)
        except (RayError, RuntimeError, ConnectionError) as again:
            raise ClusterError(f"{address or 'ray'}: cannot start: {_first_line(again)}") from again
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
