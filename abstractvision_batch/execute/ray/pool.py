"""The driver of a run on a cluster: feed the actors, take what they answer, replace what died. Knows no Ray.

One actor per share of a GPU (or of CPUs), up to two shards in flight each. Variants of a job whose actors are alike
share them: an actor keeps its model while anything of that variant waits, then loads another in its place (`spread`).
A dead actor's shards are put back and a new actor takes its place (`lost_actors`, `shard_queue`); those of a node that
is about to go are moved (`nodes`). Actors that cannot be placed yet stay pending, which is what an autoscaler looks at.
Numbers cross the cluster, never prompts or pixels; an answered shard costs the same however many actors and shards
there are.

An error that no request of a variant survives, as a missing model, ends the variant; any other, as a store that is
down, lets all workers finish their shards, and no further is begun.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from abstractvision_batch.errors import AbstractVisionError, GenerationCancelledError, RunStoppedError
from abstractvision_batch.execute.context import FAILED_VARIANT, Variants, name_failed_variant
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.progress import RunningRows, ShardSummary
from abstractvision_batch.execute.ray.cluster import Call, CallCancelledError, Cluster, WorkerLostError
from abstractvision_batch.execute.ray.lost_actors import LostActors
from abstractvision_batch.execute.ray.nodes import ClusterNodes
from abstractvision_batch.execute.ray.placement import actor_options, needs_of
from abstractvision_batch.execute.ray.pool_size import PoolSize
from abstractvision_batch.execute.ray.roster import IN_FLIGHT, Actor, Roster
from abstractvision_batch.execute.ray.shard_queue import ShardQueue, Work
from abstractvision_batch.execute.ray.spread import choose_variant
from abstractvision_batch.runs.columns import RowResult
from abstractvision_batch.runs.results import add_up

logger = logging.getLogger(__name__)

POLL_S = 0.25
#: Between two looks at the cluster's nodes, in seconds.
NODES_S = 1.0
#: Between two looks at what running shards have done so far, in seconds.
REPORT_S = 0.5


class ActorPool:
    """The actors of one run, or of those variants of one whose actors are alike, and the loop that keeps them at work.

    Args:
        cluster: A cluster that was joined for this; it is closed at the end.
        variants: Contexts with the numbers of their shards to run. A variant's number is its position here.
        control: Of the run.
        split: Returns the plan indexes of a shard's batches, for a shard that is to be run in pieces; read from the
            plan by default.
    """

    def __init__(
        self,
        cluster: Cluster,
        variants: Variants,
        control: Control,
        *,
        split: Callable[[int], list[tuple[int, ...]]] | None = None,
    ) -> None:
        self._cluster = cluster
        self._contexts = [context for context, _ in variants]
        self._control = control
        self._interrupts = control.interrupts
        self._guard = control.guard
        self._queue = ShardQueue([shards for _, shards in variants], split=split or self._batches_of)
        nodes = cluster.nodes()
        self._options = actor_options(self._contexts, nodes, grows=cluster.grows, measure_gpus=cluster.measure_gpus)
        needs = needs_of(self._options)
        self._size = PoolSize(self._contexts, needs)
        self._size.look(nodes, actors=0, pending=0)
        execution = self._contexts[0].spec.execution
        self._nodes = ClusterNodes(needs, wait_s=execution.node_wait_s, now=cluster.now)
        wanted = self._size.wanted(busy=0, waiting=len(self._queue))
        models = [context.spec.model for context in self._contexts]
        self._lost = LostActors(cluster, self._queue, self._nodes, models=models, actors=wanted)
        self._names = (f"worker {number}" for number in itertools.count())
        self._roster = Roster()
        self._running = RunningRows()
        self._looked = self._reported = float("-inf")
        self._begun = self._drained = self._cancelled = False
        self._ended: set[int] = set()
        self.errors: list[Exception] = []
        """What ended the work on a variant or, first of all, on everything."""

    def run(self) -> None:
        """Run the shards until they are done, an interrupt drains the run, or the budget is used up.

        Raises:
            RunStoppedError: every request fails in the same way.
            DependencyError: the model or a package is missing on a worker.
            StorageError: a worker could not read the plan or write.
            ClusterError: the cluster cannot hold one actor, or workers die while they load.
        """
        try:
            while self.step():
                pass
        finally:
            self.close()
        if self.errors:
            raise self.errors[0]

    def step(self, wait_s: float = POLL_S) -> bool:
        """Do what there is to do, and wait so long for an answer.

        Returns:
            Whether the work goes on; when it does not, see `errors`.

        Raises:
            ClusterError: the cluster cannot be asked, has no room for an actor, or starts none.
        """
        if not self._begun:
            self._begun = True
            self._resize()
        if not self._has_work():
            return False
        self._handle_interrupts()
        self._refresh_nodes()
        self._feed()
        self._take_answers(wait_s)
        self._report()
        return True

    def close(self) -> None:
        """End the actors."""
        for actor in self._roster:
            self._cluster.end(actor.handle)
        self._cluster.close()

    def _has_work(self) -> bool:
        if self._roster.works:
            return True
        if not self._interrupts.draining and (len(self._queue) or self._lost.pending_calls):
            return True
        return self._commit_pieces()

    def _resize(self) -> None:
        """Start actors until there are as many as there should be, or end those that have nothing to do."""
        staying = [actor for actor in self._roster if not actor.leaving]
        busy = sum(bool(actor.calls) for actor in staying)
        waiting = 0 if self._interrupts.draining else len(self._queue) + self._lost.pending_calls
        missing = self._size.wanted(busy=busy, waiting=waiting) - len(staying) - self._lost.unplaced
        if not self._interrupts.draining:
            for _ in range(missing):
                self._start_actor()
        if missing < 0:
            # First those without a place, then those without a model; the newest of each.
            idle = [actor for actor in reversed(staying) if not actor.calls]
            idle.sort(key=lambda actor: (actor.node is not None, actor.is_ready))
            for actor in idle[:-missing]:
                self._end(actor)

    def _end(self, actor: Actor) -> None:
        self._roster.remove(actor)
        self._cluster.end(actor.handle)
        self._cluster.release_share(actor.name)

    def _start_actor(self) -> Actor:
        name = next(self._names)
        started = self._cluster.start_worker(name, self._options)
        actor = Actor(name, started.handle, started.placing)
        self._roster.add(actor)
        return actor

    def _feed(self) -> None:
        if self._interrupts.draining:
            return
        for held in range(IN_FLIGHT):
            for variant in range(len(self._contexts)):
                while self._may_send(variant, held) and (actor := self._roster.with_room(variant, held)):
                    work = self._queue.peek(variant)
                    grant = self._guard.grant(work.shard, requests=len(work.indexes) or None)
                    if grant is None:
                        return  # until a shard gives back what it did not use, or for good
                    work = self._queue.pop(variant)
                    if work.indexes:
                        call = self._cluster.run_rows(actor.handle, work.shard, work.indexes, grant.tries)
                    else:
                        call = self._cluster.run_shard(actor.handle, work.shard, grant.tries)
                    self._roster.sent(actor, call, work, grant)
        self._spread()

    def _may_send(self, variant: int, held: int) -> bool:
        """Whether an actor that has the model and holds so many shards should get one more."""
        left = self._queue.left(variant)
        if not held:
            return left > 0
        # A second shard only while there are enough for everyone: near the end it would wait behind a busy actor.
        return left >= self._roster.workers(variant) and len(self._queue) >= len(self._roster)

    def _spread(self) -> None:
        """Let actors without a model, or whose variant has nothing left for them, load that of another."""
        numbers = range(len(self._contexts))
        for own in (None, *numbers):
            while (actor := self._roster.with_room(own, 0)) is not None:
                waiting = self._queue.waiting
                workers = [self._roster.workers(variant) for variant in numbers]
                loading = [self._roster.loading(variant) for variant in numbers]
                if (variant := choose_variant(waiting, workers, loading)) is None:
                    return
                if own is not None:
                    self._cluster.release_share(actor.name)
                self._roster.load(actor, variant, self._cluster.load(actor.handle, variant))

    def _take_answers(self, wait_s: float) -> None:
        lost = False
        for call in self._cluster.wait(wait_s):
            if (actor := self._roster.take_owner(call)) is None:
                self._lost.on_probe_result(call)
                continue
            try:
                answer = self._cluster.answer_of(call)
            except WorkerLostError as exc:
                self._lose(actor, call, exc)
                lost = True
            except (CallCancelledError, GenerationCancelledError):
                self._give_up_call(actor, call, begun=True)
            except Exception as exc:  # noqa: BLE001 - raised once the others have finished what they run
                self._end_early(actor, call, exc)
            else:
                self._accept(actor, call, answer)
        if lost:
            self._resize()
            self._look_at_nodes()

    def _accept(self, actor: Actor, call: Call, answer: Any) -> None:
        if call == actor.placing:
            self._roster.put(actor, answer)
            self._lost.note_started()
            return
        if call == actor.loading and actor.variant is not None:
            self._lost.note_progress(actor.variant)
            self._roster.loaded(actor, variant=actor.variant)
            return
        if answer is None:
            self._give_up_call(actor, call, begun=False)
            return
        work = self._roster.ended(actor, call)
        self._lost.note_progress(work.variant)
        grant = actor.grants.pop(call, None)
        if isinstance(answer, ShardSummary):
            if grant is not None:
                self._guard.settle(grant, tries=answer.tries, usd=answer.cost_usd)
            self._control.on_shard(answer)
            self._running.drop(answer.shard)
            self._control.on_rows(*self._running.total)
            if isinstance(answer.ended_by, RunStoppedError):
                self._end_for(work.variant, answer.ended_by)
            return
        if grant is not None:
            tries, usd = add_up(answer.values())
            self._guard.settle(grant, tries=tries, usd=usd)
        if (results := self._queue.piece_done(work, answer)) is not None:
            self._commit(actor, work, results)

    def _give_up_call(self, actor: Actor, call: Call, *, begun: bool) -> None:
        """Forget a call that was cancelled or not begun; its work is for others unless the run ends."""
        work = self._roster.ended(actor, call)
        actor.close_grant(call, self._guard, begun=begun)
        if not self._interrupts.draining:
            self._queue.put_back(work)

    def _end_early(self, actor: Actor, call: Call, error: Exception) -> None:
        """Take that no worker can go on with a variant, or at all: what they run is the last of it."""
        if call in actor.calls:
            variant: int | None = self._roster.ended(actor, call).variant
            actor.close_grant(call, self._guard, begun=True)
        else:
            variant = actor.variant
            self._roster.loaded(actor, variant=None)
        if variant is not None and isinstance(error, FAILED_VARIANT):
            self._end_for(variant, error)
        else:
            self.errors.insert(0, error)
            self._interrupts.drain()

    def _end_for(self, variant: int, error: AbstractVisionError) -> None:
        """End the work on a variant; the others go on."""
        if variant not in self._ended:
            self._ended.add(variant)
            self._queue.end(variant)
            self._cluster.stop_variant(variant)
            self.errors.append(name_failed_variant(self._contexts[variant], error))

    def _commit_pieces(self) -> bool:
        """Have the finished rows of shards committed that were run in pieces, and not to their end."""
        committer = next((actor for actor in self._roster if actor.node is not None), None)
        if committer is None:
            return False
        partial = self._queue.take_partial()
        for shard, results in partial:
            self._commit(committer, shard, results)
        return bool(partial)

    def _lose(self, actor: Actor, call: Call, error: WorkerLostError) -> None:
        self._roster.remove(actor)
        self._cluster.release_share(actor.name)
        for number, held in enumerate(actor.calls):
            actor.close_grant(held, self._guard, begun=number == 0)
        self._lost.add(actor, error)

    def _commit(self, actor: Actor, piece: Work, results: dict[int, RowResult]) -> None:
        """Have an actor commit the shard of a piece, whose rows were all run in such."""
        call = self._cluster.commit(actor.handle, piece.variant, piece.shard, results)
        self._roster.sent(actor, call, replace(piece, indexes=()))

    def _handle_interrupts(self) -> None:
        if self._guard.is_over():
            self._interrupts.drain()
        if self._interrupts.draining and not self._drained:
            self._drained = True
            self._stop(self._roster)
        if self._interrupts.cancelled() and not self._cancelled:
            self._cancelled = True
            for actor in self._roster:
                self._cluster.cancel(actor.calls)

    def _stop(self, actors: Iterable[Actor]) -> None:
        """Let actors finish what they run and begin nothing more of what they hold."""
        self._cluster.stop([actor.name for actor in actors])

    def _refresh_nodes(self) -> None:
        if self._cluster.now() - self._looked < NODES_S:
            return
        self._look_at_nodes()
        if not self._interrupts.draining:
            self._drain_leaving_nodes()
        self._resize()

    def _drain_leaving_nodes(self) -> None:
        """Move the work of actors whose nodes are about to go: running shards finish there if their time allows."""
        for actor in self._roster:
            if not self._nodes.is_leaving(actor.node):
                continue
            if not actor.leaving:
                logger.warning("a node is about to go: its worker gets no new shards")
                self._roster.leave(actor)
                self._stop([actor])
            elif not actor.calls:
                self._end(actor)

    def _look_at_nodes(self) -> None:
        self._looked = self._cluster.now()
        nodes = self._cluster.nodes()
        self._nodes.look(nodes)
        staying = [actor for actor in self._roster if not actor.leaving]
        self._size.look(nodes, actors=len(staying), pending=sum(actor.node is None for actor in staying))
        resolved = self._lost.resolve()
        for piece, results in resolved.finished:
            self._commit(self._choose_committer(), piece, results)
        for variant, error in resolved.given_up:
            self._end_for(variant, error)

    def _choose_committer(self) -> Actor:
        """The actor with the least to do, if there is any that stays; it needs no model for it."""
        staying = [actor for actor in self._roster if not actor.leaving]
        placed = [actor for actor in staying if actor.node is not None]
        least = min(placed, key=lambda actor: (actor.loading is not None, len(actor.calls)), default=None)
        return least or next(iter(staying), None) or self._start_actor()

    def _report(self) -> None:
        if self._cluster.now() - self._reported < REPORT_S:
            return
        self._reported = self._cluster.now()
        running = {work.shard for actor in self._roster for work in actor.calls.values()}
        self._running.replace(self._cluster.rows_so_far(running))
        self._control.on_rows(*self._running.total)

    def _batches_of(self, shard: int) -> list[tuple[int, ...]]:
        context = self._contexts[0]  # what is to be run is of the whole run
        table = context.read_rows(context.open_store(), shard).chosen
        batches: dict[int, list[int]] = {}
        for index, batch in zip(table["index"].to_pylist(), table["batch_id"].to_pylist(), strict=True):
            batches.setdefault(batch, []).append(index)
        return [tuple(indexes) for indexes in batches.values()]
