"""A cluster of any size in a time of its own, whose workers generate nothing: what `actor_pool` drives in a simulation.

Time passes from event to event: a worker is placed, loads, ends a shard, dies; a node is about to leave, leaves,
another joins. Durations and faults are drawn from one seed, so a simulation can be repeated. Each message that the
driver sends or takes costs it `message_s`, which is what Ray asks of a real one (`ray_costs` measures it).

Not covered: the network and the store (what they add is in the duration of a shard), Ray's own head.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from abstractvision_batch.execute.cluster import Call, CallCancelledError, Node, StartedWorker, WorkerLostError
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.results import RowResult

#: Seconds after which Ray is sure that a node which went without notice is gone; its health checks take about so long.
NOTICED_S = 30.0
HOUR_S = 3600.0


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
    loading: Call
    waiting: deque[tuple[Call, str, int, Any]] = field(default_factory=deque)
    """Calls that it has not begun: the call, what to do, the shard, and more."""
    running: tuple[Call, str, int, Any] | None = None
    began: float = 0.0
    loaded: bool = False
    node: SimulatedNode | None = None
    alive: bool = True
    stopped: bool = False


class SimulatedCluster:
    """See `Cluster`.

    Args:
        nodes: At the start.
        resources: Of each node.
        shard_rows: Requests of a shard.
        durations: How long things take.
        faults: What goes wrong.
        seed: Of all that is drawn.
    """

    grows = True

    def __init__(
        self,
        nodes: int,
        resources: Mapping[str, float],
        *,
        shard_rows: Callable[[int], int],
        durations: Durations,
        faults: Faults = Faults(),
        seed: int = 1,
    ) -> None:
        self._resources = dict(resources)
        self._shard_rows = shard_rows
        self._durations = durations
        self._faults = faults
        self._random = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._ended: list[Call] = []
        self._answers: dict[Call, Any] = {}
        self._taken: dict[Call, Any] = {}
        self._nodes: dict[str, SimulatedNode] = {}
        self._with_room: dict[str, SimulatedNode] = {}
        self._unplaced: deque[SimulatedWorker] = deque()
        self._workers: dict[str, SimulatedWorker] = {}
        self._running: dict[str, SimulatedWorker] = {}
        self.committed = bytearray()
        """How often each shard was committed; the second time is told that it was late."""
        self.messages: Counter[str] = Counter()
        self.useful_s = 0.0
        """Worker time of shards that were committed."""
        self.held_s = self.busy_s = 0.0
        """Time of workers that have loaded, and of those that run something."""
        self.held_when_sent_s = self.busy_when_sent_s = 0.0
        """The same until the driver sent its last shard: after that there is no work for everyone."""
        self._loaded = 0
        self._counted = 0.0
        self.first_loaded: float | None = None
        self.last_begun = 0.0
        self.last_commit = 0.0
        self.own_cpu_s = 0.0
        """What the simulation itself took."""
        for _ in range(nodes):
            self._join()

    # What the driver asks. Each notes the processor time that it takes itself: the rest is the driver's.

    def now(self) -> float:
        return self._now

    def nodes(self) -> Sequence[Node]:
        with _Timed(self):
            self._pass("nodes")
            return [Node(node.id, node.resources, node.free, leaving=node.leaving) for node in self._nodes.values()]

    def measure_gpus(self, nodes: Sequence[Node]) -> Mapping[str, int]:
        return {}

    def start_worker(self, name: str, options: Mapping[str, Any]) -> StartedWorker:
        with _Timed(self):
            self._pass("worker start", 3)
            needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options.get("resources", {})}
            worker = SimulatedWorker(name, needs, next(self._numbers), next(self._numbers))
            self._workers[name] = worker
            self._unplaced.append(worker)
            self._place()
            return StartedWorker(worker, worker.placing, worker.loading)

    def run_shard(self, worker: Any, shard: int, tries: int | None) -> Call:
        call = self._send(worker, "shard", shard, None)
        self.held_when_sent_s, self.busy_when_sent_s = self.held_s, self.busy_s
        return call

    def run_rows(self, worker: Any, shard: int, indexes: tuple[int, ...], tries: int | None) -> Call:
        return self._send(worker, "rows", shard, indexes)

    def commit(self, worker: Any, shard: int, results: Mapping[int, RowResult]) -> Call:
        return self._send(worker, "commit", shard, results)

    def ask_node(self, worker: Any) -> Call:
        with _Timed(self):
            self._pass("question")
            call: Call = next(self._numbers)
            if worker.alive and worker.node is not None:
                self._answer(call, worker.node.id)
            else:
                self._after(NOTICED_S, lambda: self._answer(call, WorkerLostError("it is gone")))
            return call

    def wait(self, timeout_s: float) -> Sequence[Call]:
        with _Timed(self):
            self.messages["wait"] += 1
            end = self._now + timeout_s
            while not self._ended and self._events and self._events[0][0] <= end:
                self._step()
            while self._events and self._events[0][0] <= self._now:  # what came while the driver was busy
                self._step()
            if not self._ended:
                self._now = end
            ended, self._ended = self._ended, []
            self._taken = {call: self._answers.pop(call) for call in ended}
            self._pass("answer", len(ended))
            return ended

    def answer_of(self, call: Call) -> Any:
        answer = self._taken[call]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self, calls: Iterable[Call]) -> None:
        with _Timed(self):
            cancelled = set(calls)
            for worker in [worker for worker in self._running.values() if worker.running is not None]:
                if worker.running is not None and worker.running[0] in cancelled:
                    self._answer(worker.running[0], CallCancelledError())
                    self._rest(worker)

    def stop(self, names: Iterable[str]) -> None:
        with _Timed(self):
            self._pass("board")
            for name in names:
                if name in self._workers:
                    self._workers[name].stopped = True

    def end(self, worker: Any) -> None:
        with _Timed(self):
            self._pass("end")
            self._take_away(worker, None)

    def release_share(self, name: str) -> None:
        self._pass("share")

    def rows_so_far(self, shards: Collection[int]) -> Mapping[int, tuple[int, int]]:
        with _Timed(self):
            self._pass("board")
            found = ((worker.running[2], worker) for worker in self._running.values() if worker.running is not None)
            return {shard: (self._rows_of(shard, worker), 0) for shard, worker in found}

    def close(self) -> None:
        for worker in list(self._workers.values()):
            self._take_away(worker, None)

    # What happens.

    def _send(self, worker: SimulatedWorker, what: str, shard: int, more: Any) -> Call:
        with _Timed(self):
            self._pass("call")
            call: Call = next(self._numbers)
            if worker.alive:
                worker.waiting.append((call, what, shard, more))
                self._begin_next(worker)
            else:  # it died a moment ago, and the driver is about to hear of it
                self._answer(call, WorkerLostError("it is gone"))
            return call

    def _begin_next(self, worker: SimulatedWorker) -> None:
        if not worker.loaded or worker.running is not None:
            return
        while worker.waiting and worker.stopped:
            self.messages["board, by workers"] += 1
            self._answer(worker.waiting.popleft()[0], None)
        if not worker.waiting:
            return
        worker.running = worker.waiting.popleft()
        worker.began = self.last_begun = self._now
        call, what, shard, more = worker.running
        self.messages["board, by workers"] += what != "commit"
        self._count()
        self._running[worker.name] = worker
        duration_s = self._draw_duration(worker)
        if what == "rows":
            duration_s *= len(more) / self._shard_rows(shard)
        self._after(0.1 if what == "commit" else duration_s, lambda: self._end_call(worker, call))

    def _draw_duration(self, worker: SimulatedWorker) -> float:
        spread = self._durations.spread
        slowness = 1.0 if worker.node is None else worker.node.slowness
        return self._durations.shard_s * slowness * math.exp(self._random.gauss(0, spread) - spread * spread / 2)

    def _end_call(self, worker: SimulatedWorker, call: Call) -> None:
        if not worker.alive or worker.running is None or worker.running[0] != call:
            return
        _, what, shard, more = worker.running
        if what == "rows":
            self._answer(call, {index: RowResult(status="ok") for index in more})
            self._rest(worker)
            return
        self._answer(call, self._commit(worker, shard))
        self._rest(worker)

    def _commit(self, worker: SimulatedWorker, shard: int) -> ShardSummary:
        self.committed.extend(bytes(max(0, shard + 1 - len(self.committed))))
        self.committed[shard] += 1
        first = self.committed[shard] == 1
        if first:
            self.useful_s += self._now - worker.began
            self.last_commit = self._now
        rows = self._shard_rows(shard)
        return ShardSummary(shard, rows, 0, committed=first, tries=rows)

    def _rest(self, worker: SimulatedWorker) -> None:
        self._end_running(worker)
        self._begin_next(worker)

    def _end_running(self, worker: SimulatedWorker) -> None:
        if worker.running is not None:
            self._count()
            del self._running[worker.name]
        worker.running = None

    def _join(self) -> None:
        slow = self._random.random() < self._faults.stragglers
        number = next(self._numbers)
        node = SimulatedNode(
            f"node-{number}", self._resources, self._faults.straggling if slow else 1.0, dict(self._resources)
        )
        self._nodes[node.id] = self._with_room[node.id] = node
        if self._faults.node_losses_per_hour:
            stays_s = self._random.expovariate(self._faults.node_losses_per_hour / HOUR_S)
            notice = self._random.random() < 0.5
            self._after(stays_s, lambda: self._notify(node) if notice else self._leave(node))
        self._place()

    def _notify(self, node: SimulatedNode) -> None:
        node.leaving = True
        self._with_room.pop(node.id, None)
        self._after(self._faults.notice_s, lambda: self._leave(node))

    def _leave(self, node: SimulatedNode) -> None:
        del self._nodes[node.id]
        self._with_room.pop(node.id, None)
        node.leaving = True
        for worker in list(node.workers.values()):
            self._take_away(worker, WorkerLostError(f"{node.id} is out of reach", certain=False))
        self._after(self._faults.rejoin_s, self._join)

    def _place(self) -> None:
        while self._unplaced:
            worker = self._unplaced[0]
            node = self._find_room(worker.needs)
            if node is None:
                return
            self._unplaced.popleft()
            if worker.alive:
                for name, amount in worker.needs.items():
                    node.free[name] = node.free.get(name, 0) - amount
                worker.node = node
                node.workers[worker.name] = worker
                self._after(self._durations.place_s, partial(self._start, worker))

    def _find_room(self, needs: Mapping[str, float]) -> SimulatedNode | None:
        while self._with_room:
            node = next(reversed(self._with_room.values()))
            if all(node.free.get(name, 0) >= amount for name, amount in needs.items()):
                return node
            del self._with_room[node.id]  # all workers need the same
        return None

    def _start(self, worker: SimulatedWorker) -> None:
        if worker.alive and worker.node is not None:
            self._answer(worker.placing, worker.node.id)
            self._after(self._durations.load_s * self._random.uniform(0.8, 1.2), lambda: self._end_loading(worker))
            if self._faults.actor_deaths_per_hour:
                lives_s = self._random.expovariate(self._faults.actor_deaths_per_hour / HOUR_S)
                self._after(lives_s, lambda: self._die(worker))

    def _end_loading(self, worker: SimulatedWorker) -> None:
        if worker.alive:
            self._count()
            self._loaded += 1
            self.first_loaded = self._now if self.first_loaded is None else self.first_loaded
            worker.loaded = True
            self._answer(worker.loading, None)
            self._begin_next(worker)

    def _die(self, worker: SimulatedWorker) -> None:
        in_shard = worker.alive and worker.running is not None and worker.running[1] == "shard"
        if in_shard and worker.running is not None and self._random.random() < self._faults.dies_after_commit:
            self._commit(worker, worker.running[2])
        self._take_away(worker, WorkerLostError("its process ended"))

    def _take_away(self, worker: SimulatedWorker, error: WorkerLostError | None) -> None:
        """End a worker; its calls end with the error, or nobody waits for them any more."""
        if not worker.alive:
            return
        worker.alive = False
        if worker.loaded:
            self._count()
            self._loaded -= 1
        calls = [worker.placing] if worker.node is None else []
        calls += [worker.loading] if worker.node is not None and not worker.loaded else []
        calls += [] if worker.running is None else [worker.running[0]]
        calls += [waiting[0] for waiting in worker.waiting]
        self._end_running(worker)
        del self._workers[worker.name]
        if worker.node is not None:
            worker.node.workers.pop(worker.name, None)
            for name, amount in worker.needs.items():
                worker.node.free[name] += amount
            if not worker.node.leaving:
                self._with_room[worker.node.id] = worker.node
            self._place()
        if error is not None:
            # The driver hears of an idle worker's death when it sends the next call; its loading call is the witness.
            for call in calls:
                self._answer(call, error)

    def _rows_of(self, shard: int, worker: SimulatedWorker) -> int:
        done = min(0.95, (self._now - worker.began) / self._durations.shard_s)
        return int(done * self._shard_rows(shard))

    def _answer(self, call: Call, answer: Any) -> None:
        self._answers[call] = answer
        self._ended.append(call)

    def _count(self) -> None:
        """Add up workers' time since the last change of how many there are, and of how many run something."""
        since = self._now - self._counted
        self.held_s += self._loaded * since
        self.busy_s += len(self._running) * since
        self._counted = self._now

    def _pass(self, what: str, times: int = 1) -> None:
        """Let the driver spend the time of a message."""
        self.messages[what] += times
        self._now += times * self._durations.message_s

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), action))

    def _step(self) -> None:
        at, _, action = heapq.heappop(self._events)
        self._now = max(self._now, at)
        action()


class _Timed:
    """Adds the processor time of its body to the simulation's own."""

    __slots__ = ("_began", "_cluster")

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._cluster.own_cpu_s += time.thread_time() - self._began
