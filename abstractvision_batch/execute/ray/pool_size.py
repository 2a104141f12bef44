"""How many actors a pool has at a moment: what the spec says, what shards keep busy and, for `auto`, what there is.

A number or a range is asked for at once, whatever the cluster has: actors without a place are the demand that an
autoscaler sees. `auto` asks for what nodes have free, now and whenever some becomes free or joins, and never for more,
so that two runs on one cluster share it and neither makes it grow. Towards the end there are no more than have
something to do. Pure: the pool starts and ends them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.placement import room_for
from abstractvision_batch.job.ray_sections import ActorRange

#: Requests in flight of one actor: few enough that reading and storing their images, one core's work, keeps up.
REQUESTS_PER_ACTOR = 16


class PoolSize:
    """How many actors there should be.

    Args:
        contexts: Of the variants that they run.
        needs: Resources of one actor, by Ray's names.
    """

    def __init__(self, contexts: Sequence[RunContext], needs: Mapping[str, float]) -> None:
        actors = contexts[0].spec.execution.actors
        self._needs = needs
        self._follows = actors == "auto"
        self._least = actors.min if isinstance(actors, ActorRange) else 1
        self._most = actors.max if isinstance(actors, ActorRange) else actors if isinstance(actors, int) else 1
        self._useful: float = math.inf
        limits = {context.server_limit for context in contexts} - {None}
        if self._follows and limits:
            # Of actors that only send requests no more than keep the servers busy, but two: one sends, one stores.
            self._useful = sum(max(2, math.ceil(one.requests / REQUESTS_PER_ACTOR)) for one in limits if one)

    def look(self, nodes: Iterable[Node], *, actors: int, pending: int) -> None:
        """Take what nodes have, where there are so many actors of this run, of which so many have no place yet."""
        if not self._follows:
            return
        staying = [node for node in nodes if not node.leaving]
        room = sum(room_for(self._needs, node.resources) for node in staying)
        if not pending:
            free = sum(room_for(self._needs, node.free) for node in staying)
            self._most = actors + free
        # What is free is known late: those that were placed a moment ago may still count as free.
        self._most = int(max(1, min(self._most, room, self._useful)))

    def wanted(self, *, busy: int, waiting: int) -> int:
        """How many there should be while so many work, and so many shards or pieces of shards wait for one."""
        return max(self._least, min(self._most, busy + waiting))
