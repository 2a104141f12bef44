"""What becomes of a cluster's nodes, as far as a run's workers need to know. Knows no Ray.

A worker that goes down with its node is no fault of its shard. A node that is about to leave (a preemption notice, a
scale-down) gets no new shards. Where no node can hold a worker, the run waits for one for so long and no longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.placement import describe_needs, room_for


class ClusterNodes:
    """The nodes at the last look.

    Args:
        needs: Resources of one worker, by Ray's names.
        wait_s: How long the run may go without a node that can hold a worker.
        now: A clock, in seconds.
    """

    def __init__(self, needs: Mapping[str, float], *, wait_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._needs = needs
        self._wait_s = wait_s
        self._now = now
        self._alive: frozenset[str] = frozenset()
        self._leaving: frozenset[str] = frozenset()
        self._last_fit = now()

    def look(self, nodes: Iterable[Node]) -> None:
        """Take what the cluster says of its nodes.

        Raises:
            ClusterError: no node could hold a worker for `wait_s`.
        """
        alive = list(nodes)
        self._alive = frozenset(node.id for node in alive)
        self._leaving = frozenset(node.id for node in alive if node.leaving)
        staying = [node for node in alive if not node.leaving]
        if any(room_for(self._needs, node.resources) for node in staying):
            self._last_fit = self._now()
        elif self._now() - self._last_fit > self._wait_s:
            wanted = describe_needs(self._needs)
            raise ClusterError(
                f"no node of the cluster could hold a worker ({wanted}) for execution.node_wait_s "
                f"({self._wait_s:g} s); {len(staying)} nodes are left (let nodes join; running again resumes)"
            )

    def is_gone(self, node: str | None) -> bool:
        """Whether a worker's node is down, or was about to be."""
        return node is not None and (node not in self._alive or node in self._leaving)

    def is_leaving(self, node: str | None) -> bool:
        """Whether a node is up and about to go."""
        return node in self._leaving
