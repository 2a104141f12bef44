"""What a simulated cluster is made of: its nodes, the workers on them, how long things take and what goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.execute.ray.cluster import Call


@dataclass(frozen=True, slots=True)
class Durations:
    """How long things take, in seconds."""

    shard_s: float = 60.0
    spread: float = 0.25
    """Standard deviation of the logarithm of a shard's duration."""
    place_s: float = 2.0
    load_s: float = 40.0
    message_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong; nothing by default."""

    actor_deaths_per_hour: float = 0.0
    node_losses_per_hour: float = 0.0
    """Of each node; half of them with notice."""
    notice_s: float = 120.0
    rejoin_s: float = 300.0
    """After which another node joins for one that left."""
    stragglers: float = 0.0
    """Share of nodes that are slow."""
    straggling: float = 3.0
    """How much longer a shard takes there."""
    dies_after_commit: float = 0.2
    """Share of the deaths in a shard that come after its commit and before the answer."""


@dataclass(slots=True, eq=False)
class SimulatedNode:
    id: str
    resources: dict[str, float]
    slowness: float
    free: dict[str, float]
    leaving: bool = False
    workers: dict[str, SimulatedWorker] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    name: str
    needs: Mapping[str, float]
    placing: Call
    loading: Call | None = None
    variant: int = 0
    """Of which it has the model, or loads it."""
    waiting: deque[tuple[Call, str, int, Any]] = field(default_factory=deque)
    """Calls that it has not begun: the call, what to do, the shard, and more."""
    running: tuple[Call, str, int, Any] | None = None
    began: float = 0.0
    loaded: bool = False
    node: SimulatedNode | None = None
    alive: bool = True
    stopped: bool = False


class SimulatedNodes:
    """The nodes that are up, and who has which room on them. All workers need the same."""

    def __init__(self) -> None:
        self._up: dict[str, SimulatedNode] = {}
        self._with_room: dict[str, SimulatedNode] = {}
        """Those that may have some; one that is found full is left out until a worker ends there."""

    def __iter__(self) -> Iterator[SimulatedNode]:
        return iter(self._up.values())

    def add(self, node: SimulatedNode) -> None:
        self._up[node.id] = self._with_room[node.id] = node

    def close(self, node: SimulatedNode) -> None:
        """Take no more workers there: it is about to leave."""
        node.leaving = True
        self._with_room.pop(node.id, None)

    def remove(self, node: SimulatedNode) -> None:
        self.close(node)
        del self._up[node.id]

    def place(self, worker: SimulatedWorker) -> bool:
        """Give a worker room; false where there is none."""
        while self._with_room:
            node = next(reversed(self._with_room.values()))
            if all(node.free.get(name, 0) >= amount for name, amount in worker.needs.items()):
                for name, amount in worker.needs.items():
                    node.free[name] = node.free.get(name, 0) - amount
                node.workers[worker.name] = worker
                worker.node = node
                return True
            del self._with_room[node.id]
        return False

    def release(self, worker: SimulatedWorker) -> None:
        """Take back the room of a worker that has some."""
        assert worker.node is not None
        worker.node.workers.pop(worker.name, None)
        for name, amount in worker.needs.items():
            worker.node.free[name] += amount
        if not worker.node.leaving:
            self._with_room[worker.node.id] = worker.node
