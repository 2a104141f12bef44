"""Run shards on the workers of a Ray cluster: feed them, take what is ready, replace what died.

Our own pool on Ray Core: one actor per share of a GPU (or of CPUs), up to two shards in flight each, no restarts by
Ray. A dead actor's shards are put back and a new actor takes its place (`shard_queue`); those of a node that went away
or is about to are moved (`cluster_nodes`). Actors that cannot be placed yet stay pending, which is what an autoscaler
looks at. Numbers cross the object store, never prompts or pixels.

Not covered: Ray itself (`ray_cluster`), submitting jobs to a cluster.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from abstractvision_batch.backends.shared_limit import SharedLimit
from abstractvision_batch.errors import ClusterError, GenerationCancelledError
from abstractvision_batch.execute import ray_cluster
from abstractvision_batch.execute.actor_view import Actor, Lost
from abstractvision_batch.execute.cluster_nodes import ClusterNodes
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.placement import actor_options, number_of_actors
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.ray_cluster import CallCancelledError, WorkerLostError
from abstractvision_batch.execute.results import add_up
from abstractvision_batch.execute.shard_queue import ShardQueue
from abstractvision_batch.execute.shard_rows import rows_to_run
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.execute.worker import Board

logger = logging.getLogger(__name__)

#: Shards that an actor holds: the second waits in its queue, so that it never idles for the driver.
IN_FLIGHT = 2
#: Workers that die before any shard was done, in a row, before the run gives up.
MAX_LOADING_DEATHS = 3
POLL_S = 0.25
#: Between two looks at the cluster's nodes, in seconds.
NODES_S = 1.0
#: How long a worker that cannot be reached may turn out to have gone down with its node: Ray takes its time to say so.
UNREACHABLE_S = 60.0


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
    with ray_cluster.joined_cluster(context.spec.execution.address):
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
        resources = ray_cluster.cluster_resources()
        self._options = actor_options(context, resources)
        needs = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
        self._nodes = ClusterNodes(needs, wait_s=context.spec.execution.node_wait_s)
        self._looked = 0.0
        self._board = ray_cluster.start_helper(Board)
        # No state that cannot be lost: one that Ray starts again hears from the workers what is in flight.
        self._limit = None
        if context.max_in_flight is not None:
            self._limit = ray_cluster.start_helper(SharedLimit, context.max_in_flight, max_restarts=-1)
        self._names = (f"worker {number}" for number in itertools.count())
        self._context_ref = ray_cluster.share(context)
        number = number_of_actors(context, resources, self._options, shards=len(shards))
        self._actors = [self._start_actor() for _ in range(number)]
        self._lost: list[Lost] = []
        self._loading_deaths = 0
        self._unplaced_since = float("inf")
        self._drained = self._cancelled = False

    def run(self) -> None:
        try:
            while self._busy() or (len(self._queue) and not self._interrupts.draining):
                self._heed_interrupts()
                self._heed_nodes()
                self._feed()
                self._take_ready()
                self._report()
        finally:
            ray_cluster.kill(*(actor.handle for actor in self._actors), self._board)
            if self._limit is not None:
                ray_cluster.kill(self._limit)

    def _busy(self) -> bool:
        held = any(lost.actor.calls for lost in self._lost) and not self._interrupts.draining
        return held or any(actor.calls for actor in self._actors)

    def _start_actor(self) -> Actor:
        name = next(self._names)
        calls = ray_cluster.start_worker(self._options, self._context_ref, self._board, self._limit, name)
        return Actor(name, *calls)

    def _feed(self) -> None:
        if self._interrupts.draining:
            return
        ready = [actor for actor in self._actors if actor.ready and not actor.leaving]
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
                    actor.send(self._queue.pop(), grant)

    def _take_ready(self) -> None:
        owners = {actor.placing: actor for actor in self._actors if actor.node is None}
        owners |= {actor.loading: actor for actor in self._actors if actor.node is not None and not actor.ready}
        owners |= {reference: actor for actor in self._actors for reference in actor.calls}
        for reference in ray_cluster.wait_for_answers(owners, timeout_s=POLL_S):
            actor = owners[reference]
            if actor not in self._actors:
                continue  # replaced while this list was worked off
            try:
                answer = ray_cluster.answer_of(reference)
            except WorkerLostError as exc:
                self._replace(actor, exc)
            except (CallCancelledError, GenerationCancelledError):
                self._give_up_call(actor, reference, begun=True)
            else:
                self._accept(actor, reference, answer)

    def _accept(self, actor: Actor, reference: Any, answer: Any) -> None:
        if reference == actor.placing:
            actor.node, self._unplaced_since = answer, float("inf")
            return
        if reference == actor.loading:
            actor.ready = True
            return
        if answer is None:
            self._give_up_call(actor, reference, begun=False)
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
            actor.commit(work.shard, results)

    def _give_up_call(self, actor: Actor, reference: Any, *, begun: bool) -> None:
        """Forget a call that was cancelled or not begun; its work is for others unless the run ends."""
        work = actor.calls.pop(reference)
        actor.close_grant(reference, self._guard, begun=begun)
        if not self._interrupts.draining:
            self._queue.put_back(work)

    def _replace(self, actor: Actor, error: WorkerLostError) -> None:
        """Start another actor in the place of one that is lost."""
        self._actors.remove(actor)
        if self._limit is not None:
            self._limit.drop.remote(actor.name)
        for number, reference in enumerate(actor.calls):
            actor.close_grant(reference, self._guard, begun=number == 0)
        if actor.node is None:
            self._unplaced_since = min(self._unplaced_since, time.monotonic())
        elif not actor.leaving:
            self._actors.append(self._start_actor())
        self._lost.append(Lost(actor, error, None if error.certain else ray_cluster.ask_node(actor.handle)))
        self._look_at_nodes()

    def _judge(self, lost: Lost) -> bool:
        """Put a lost actor's work back, its first to blame unless the node went away; false: not known yet."""
        actor, works = lost.actor, list(lost.actor.calls.values())
        if actor.node is None:
            return self._place_again(lost)
        if self._nodes.is_gone(actor.node):
            logger.warning("a node went away; %d shards that its worker had are put back", len(works))
            for work in reversed(works):
                self._queue.put_back(work)
            return True
        if not lost.error.certain and time.monotonic() - lost.at < UNREACHABLE_S:
            self._ask_again(lost)
            return False
        ray_cluster.kill(actor.handle)  # one that is still out of reach may live
        for work in works[1:]:
            self._queue.put_back(work)
        finished = self._queue.worker_died(works[0]) if works else None
        if not actor.ready:
            self._loading_deaths += 1
            if self._loading_deaths >= MAX_LOADING_DEATHS:
                raise ClusterError(
                    f"{self._loading_deaths} workers died while they loaded {self._context.spec.model}: {lost.error}"
                ) from lost.error
        what = f"shard {works[0].shard}" if works else "loading"
        logger.warning("a worker died during %s; another takes its place: %s", what, lost.error)
        if finished is not None:
            if all(actor.leaving for actor in self._actors):
                self._actors.append(self._start_actor())
            self._actors[-1].commit(works[0].shard, finished)
        return True

    def _ask_again(self, lost: Lost) -> None:
        """Learn whether a worker that is out of reach is dead; one that answers is given up like one that died."""
        for call in ray_cluster.wait_for_answers([lost.asking], timeout_s=0):
            try:
                ray_cluster.answer_of(call)
                lost.error = WorkerLostError("it was out of reach for a moment")
            except WorkerLostError as exc:
                lost.error = exc
                lost.asking = ray_cluster.ask_node(lost.actor.handle)

    def _place_again(self, lost: Lost) -> bool:
        """Start another actor for one that died before it ran: Ray places some on a dead node until it notices."""
        if lost.at - self._unplaced_since > UNREACHABLE_S:
            raise ClusterError(f"no worker could be started for {UNREACHABLE_S:g} s: {lost.error}") from lost.error
        if time.monotonic() - lost.at < NODES_S:
            return False
        self._actors.append(self._start_actor())
        return True

    def _heed_interrupts(self) -> None:
        if self._guard.is_over():
            self._interrupts.drain()
        if self._interrupts.draining and not self._drained:
            self._drained = True
            self._stop(self._actors)
        if self._interrupts.cancelled and not self._cancelled:
            self._cancelled = True
            for actor in self._actors:
                ray_cluster.cancel(actor.calls)

    def _stop(self, actors: Iterable[Actor]) -> None:
        """Let actors finish what they run and begin nothing more of what they hold."""
        ray_cluster.answer_of(self._board.stop.remote([actor.name for actor in actors]))

    def _heed_nodes(self) -> None:
        """Move the work of actors whose nodes are about to go: running shards finish there if their time allows."""
        if time.monotonic() - self._looked < NODES_S:
            return
        self._look_at_nodes()
        if self._interrupts.draining:
            return
        for actor in [actor for actor in self._actors if self._nodes.is_leaving(actor.node)]:
            if not actor.leaving:
                actor.leaving = True
                logger.warning("a node is about to go: its worker gets no new shards, another takes its place")
                self._stop([actor])
                self._actors.append(self._start_actor())
            elif not actor.calls:
                ray_cluster.kill(actor.handle)
                self._actors.remove(actor)

    def _look_at_nodes(self) -> None:
        self._looked = time.monotonic()
        self._nodes.look(*ray_cluster.list_nodes())
        self._lost = [lost for lost in self._lost if not self._judge(lost)]

    def _report(self) -> None:
        running = {work.shard for actor in self._actors for work in actor.calls.values()}
        rows = ray_cluster.answer_of(self._board.read.remote(running)).values()
        self._on_rows(sum(succeeded for succeeded, _ in rows), sum(failed for _, failed in rows))

    def _batches_of(self, shard: int) -> list[tuple[int, ...]]:
        table = rows_to_run(self._context.open_store(), self._context.plan, shard, self._context.retry).table
        batches: dict[int, list[int]] = {}
        for index, batch in zip(table["index"].to_pylist(), table["batch_id"].to_pylist(), strict=True):
            batches.setdefault(batch, []).append(index)
        return [tuple(indexes) for indexes in batches.values()]
