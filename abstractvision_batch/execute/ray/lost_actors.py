"""Decide why an actor died (its work, its node, or it never started) and put its shards back. Knows no Ray.

A worker that goes down with its node is no fault of its shard; one that dies alone is, as far as `shard_queue` says.
Which of the two it was may take the cluster a while to know, so a lost actor is held until then, its work with it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.ray.cluster import Call, Cluster, WorkerLostError
from abstractvision_batch.execute.ray.nodes import ClusterNodes
from abstractvision_batch.execute.ray.roster import Actor
from abstractvision_batch.execute.ray.shard_queue import ShardQueue, Work
from abstractvision_batch.runs.columns import RowResult

logger = logging.getLogger(__name__)

#: Workers that die while they load, in a row, before the run gives up; of many workers so large a share of them.
MAX_LOADING_DEATHS = 3
MAX_LOADING_DEATH_SHARE = 0.05
#: How long a worker that cannot be reached may turn out to have gone down with its node: Ray takes its time to say so.
UNREACHABLE_S = 60.0
#: How long an actor that died before it ran waits for another: Ray places some on a dead node until it notices.
PLACE_AGAIN_S = 1.0


@dataclass(slots=True)
class _Lost:
    actor: Actor
    error: WorkerLostError
    at: float


class Resolved(NamedTuple):
    """What follows from lost actors, for the caller to act on."""

    finished: list[tuple[Work, dict[int, RowResult]]]
    """Last pieces of shards that were given up, and the results of all rows of those shards, to be committed."""
    given_up: list[tuple[int, ClusterError]]
    """Variants of which one worker after the other dies while it loads the model."""


class LostActors:
    """Holds lost actors until it is known whether their work or their node was the reason.

    Args:
        cluster: Where they were.
        queue: Takes their work back.
        nodes: What is known of the cluster's nodes.
        models: Of each variant, for messages.
        actors: How many there should be.
    """

    def __init__(
        self, cluster: Cluster, queue: ShardQueue, nodes: ClusterNodes, *, models: Sequence[str], actors: int
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._nodes = nodes
        self._models = models
        self._max_loading_deaths = max(MAX_LOADING_DEATHS, math.ceil(actors * MAX_LOADING_DEATH_SHARE))
        self._lost: list[_Lost] = []
        self._probes: dict[Call, _Lost] = {}
        self._loading_deaths: Counter[int] = Counter()
        self._unplaced_since = float("inf")

    @property
    def pending_calls(self) -> int:
        """Calls of lost actors whose work is not put back yet."""
        return sum(len(lost.actor.calls) for lost in self._lost)

    @property
    def unplaced(self) -> int:
        """Actors that never ran; no other takes their place while they are here."""
        return sum(lost.actor.node is None for lost in self._lost)

    def add(self, actor: Actor, error: WorkerLostError) -> None:
        """Hold an actor that is lost, and its calls."""
        lost = _Lost(actor, error, self._cluster.now())
        if actor.node is None:
            self._unplaced_since = min(self._unplaced_since, lost.at)
        elif not error.certain:
            self._probe(lost)
        self._lost.append(lost)

    def note_started(self) -> None:
        """Note that an actor runs."""
        self._unplaced_since = float("inf")

    def note_progress(self, variant: int) -> None:
        """Note that an actor loaded a variant, or generated something of it."""
        self._loading_deaths[variant] = 0

    def on_probe_result(self, call: Call) -> None:
        """Take the answer of a worker that was out of reach. Other calls are ignored."""
        if (lost := self._probes.pop(call, None)) is None:
            return
        try:
            self._cluster.answer_of(call)
            lost.error = WorkerLostError("it was out of reach for a moment")
        except WorkerLostError as exc:
            lost.error = exc
            if not exc.certain:
                self._probe(lost)

    def resolve(self) -> Resolved:
        """Put back the work of actors of which enough is known; the caller refreshes the nodes just before.

        Raises:
            ClusterError: none can be started.
        """
        resolved = Resolved([], [])
        self._lost = [lost for lost in self._lost if not self._is_settled(lost, resolved)]
        return resolved

    def _is_settled(self, lost: _Lost, resolved: Resolved) -> bool:
        actor, works = lost.actor, list(lost.actor.calls.values())
        waited_s = self._cluster.now() - lost.at
        if actor.node is None:
            if lost.at - self._unplaced_since > UNREACHABLE_S:
                raise ClusterError(f"no worker could be started for {UNREACHABLE_S:g} s: {lost.error}") from lost.error
            return waited_s >= PLACE_AGAIN_S
        if self._nodes.is_gone(actor.node):
            logger.warning("a node went away; %d shards that its worker had are put back", len(works))
            for work in reversed(works):
                self._queue.put_back(work)
            return True
        if not lost.error.certain and waited_s < UNREACHABLE_S:
            return False
        self._cluster.end(actor.handle)  # one that is still out of reach may live
        for work in works[1:]:
            self._queue.put_back(work)
        results = self._queue.worker_died(works[0]) if works else None
        if results is not None:
            resolved.finished.append((works[0], results))
        loading = actor.variant if actor.loading is not None else None
        if loading is not None:
            self._loading_deaths[loading] += 1
            if (deaths := self._loading_deaths[loading]) >= self._max_loading_deaths:
                error = ClusterError(f"{deaths} workers died while they loaded {self._models[loading]}: {lost.error}")
                resolved.given_up.append((loading, error))
        what = f"shard {works[0].shard}" if works else "waiting for work" if loading is None else "loading"
        logger.warning("a worker died during %s; another takes its place: %s", what, lost.error)
        return True

    def _probe(self, lost: _Lost) -> None:
        """Call a worker that is out of reach: the call ends when the cluster knows more."""
        self._probes[self._cluster.ask_node(lost.actor.handle)] = lost
