"""Simulates a cluster of any size whose workers generate nothing: what `execute.ray.pool` drives, in its own time.

Time passes from event to event: a worker is placed, loads, ends a shard, dies; a node is about to leave, leaves,
another joins. Durations and faults are drawn from one seed, so a simulation can be repeated. Each message that the
driver sends or takes costs it `message_s`, which is what Ray asks of a real one (`ray_costs` measures it).

Not covered: the network and the store (what they add is in the duration of a shard), Ray's own head.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.ray.cluster import Call, CallCancelledError, Node, StartedWorker, WorkerLostError
from abstractvision_batch.runs.columns import RowResult
from tests.support.simulated_nodes import Durations, Faults, SimulatedNode, SimulatedNodes, SimulatedWorker
from tests.support.virtual_time import ProcessorTime, VirtualTime

#: Seconds after which Ray is sure that a node which went without notice is gone; its health checks take about so long.
NOTICED_S = 30.0
HOUR_S = 3600.0


class SimulatedCluster:
    """See `Cluster`.

    Args:
        nodes: At the start.
        resources: Of each node.
        shard_rows: Requests of a shard.
        durations: How long things take.
        faults: What goes wrong; nothing by default.
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
        faults: Faults | None = None,
        seed: int = 1,
    ) -> None:
        self._resources = dict(resources)
        self._shard_rows = shard_rows
        self._durations = durations
        self._faults = faults or Faults()
        self._random = random.Random(seed)
        self._time = VirtualTime()
        self._own = ProcessorTime()
        self._numbers = itertools.count()
        self._ended: list[Call] = []
        self._answers: dict[Call, Any] = {}
        self._taken: dict[Call, Any] = {}
        self._nodes = SimulatedNodes()
        self._unplaced: deque[SimulatedWorker] = deque()
        self._workers: dict[str, SimulatedWorker] = {}
        self._running: dict[str, SimulatedWorker] = {}
        self.committed = bytearray()
        """How often each shard was committed; the second time is told that it was late."""
        self.made_with = bytearray()
        """Of which variant its worker had the model."""
        self.loads: Counter[tuple[str, int]] = Counter()
        """Models by worker and variant."""
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
        for _ in range(nodes):
            self._join()

    @property
    def own_cpu_s(self) -> float:
        """What the simulation itself took."""
        return self._own.spent_s

    # What the driver asks. Each notes the processor time that it takes itself: the rest is the driver's.

    def now(self) -> float:
        return self._time.now

    def nodes(self) -> Sequence[Node]:
        with self._own:
            self._pass("nodes")
            return [Node(node.id, node.resources, node.free, leaving=node.leaving) for node in self._nodes]

    def measure_gpus(self, nodes: Sequence[Node]) -> Mapping[str, int]:
        return {}

    def start_worker(self, name: str, options: Mapping[str, Any]) -> StartedWorker:
        with self._own:
            self._pass("worker start", 2)
            needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options.get("resources", {})}
            worker = SimulatedWorker(name, needs, next(self._numbers))
            self._workers[name] = worker
            self._unplaced.append(worker)
            self._place()
            return StartedWorker(worker, worker.placing)

    def load(self, worker: Any, variant: int) -> Call:
        with self._own:
            self._pass("load")
            call: Call = next(self._numbers)
            if not worker.alive:
                self._answer(call, WorkerLostError("it is gone"))
                return call
            self._forget_model(worker)
            worker.variant, worker.loading = variant, call
            self.loads[worker.name, variant] += 1
            self._time.after(self._durations.load_s * self._random.uniform(0.8, 1.2), lambda: self._end_loading(worker))
            return call

    def run_shard(self, worker: Any, shard: int, tries: int | None) -> Call:
        call = self._send(worker, "shard", shard, None)
        self.held_when_sent_s, self.busy_when_sent_s = self.held_s, self.busy_s
        return call

    def run_rows(self, worker: Any, shard: int, indexes: tuple[int, ...], tries: int | None) -> Call:
        return self._send(worker, "rows", shard, indexes)

    def commit(self, worker: Any, variant: int, shard: int, results: Mapping[int, RowResult]) -> Call:
        return self._send(worker, "commit", shard, results)

    def ask_node(self, worker: Any) -> Call:
        with self._own:
            self._pass("question")
            call: Call = next(self._numbers)
            if worker.alive and worker.node is not None:
                self._answer(call, worker.node.id)
            else:
                self._time.after(NOTICED_S, lambda: self._answer(call, WorkerLostError("it is gone")))
            return call

    def wait(self, timeout_s: float) -> Sequence[Call]:
        with self._own:
            self.messages["wait"] += 1
            end = self._time.now + timeout_s
            while not self._ended and self._time.step(until=end):
                pass
            while self._time.step(until=self._time.now):  # what came while the driver was busy
                pass
            if not self._ended:
                self._time.now = end
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
        with self._own:
            cancelled = set(calls)
            for worker in [worker for worker in self._running.values() if worker.running is not None]:
                if worker.running is not None and worker.running[0] in cancelled:
                    self._answer(worker.running[0], CallCancelledError())
                    self._rest(worker)

    def stop(self, names: Iterable[str]) -> None:
        with self._own:
            self._pass("board")
            for name in names:
                if name in self._workers:
                    self._workers[name].stopped = True

    def stop_variant(self, variant: int) -> None:
        self._pass("board")

    def end(self, worker: Any) -> None:
        with self._own:
            self._pass("end")
            self._take_away(worker, None)

    def release_share(self, name: str) -> None:
        self._pass("share")

    def rows_so_far(self, shards: Collection[int]) -> Mapping[int, tuple[int, int]]:
        with self._own:
            self._pass("board")
            found = ((worker.running[2], worker) for worker in self._running.values() if worker.running is not None)
            return {shard: (self._rows_of(shard, worker), 0) for shard, worker in found}

    def close(self) -> None:
        for worker in list(self._workers.values()):
            self._take_away(worker, None)

    # What happens.

    def _send(self, worker: SimulatedWorker, what: str, shard: int, more: Any) -> Call:
        with self._own:
            self._pass("call")
            call: Call = next(self._numbers)
            if worker.alive:
                worker.waiting.append((call, what, shard, more))
                self._begin_next(worker)
            else:  # it died a moment ago, and the driver is about to hear of it
                self._answer(call, WorkerLostError("it is gone"))
            return call

    def _begin_next(self, worker: SimulatedWorker) -> None:
        if worker.running is not None or worker.loading is not None:
            return
        while worker.waiting and worker.stopped:
            self.messages["board, by workers"] += 1
            self._answer(worker.waiting.popleft()[0], None)
        if not worker.waiting:
            return
        worker.running = worker.waiting.popleft()
        worker.began = self.last_begun = self._time.now
        call, what, shard, more = worker.running
        self.messages["board, by workers"] += what != "commit"
        self._count()
        self._running[worker.name] = worker
        duration_s = self._draw_duration(worker)
        if what == "rows":
            duration_s *= len(more) / self._shard_rows(shard)
        self._time.after(0.1 if what == "commit" else duration_s, lambda: self._end_call(worker, call))

    def _draw_duration(self, worker: SimulatedWorker) -> float:
        spread = self._durations.spread
        slowness = 1.0 if worker.node is None else worker.node.slowness
        return self._durations.shard_s * slowness * math.exp(self._random.gauss(0, spread) - spread * spread / 2)

    def _end_call(self, worker: SimulatedWorker, call: Call) -> None:
        if not worker.alive or worker.running is None or worker.running[0] != call:
            return
        _, what, shard, more = worker.running
        rows = what == "rows"
        self._answer(call, {index: RowResult(status="ok") for index in more} if rows else self._commit(worker, shard))
        self._rest(worker)

    def _commit(self, worker: SimulatedWorker, shard: int) -> ShardSummary:
        missing = bytes(max(0, shard + 1 - len(self.committed)))
        self.committed.extend(missing)
        self.made_with.extend(missing)
        self.committed[shard] += 1
        self.made_with[shard] = worker.variant
        first = self.committed[shard] == 1
        if first:
            self.useful_s += self._time.now - worker.began
            self.last_commit = self._time.now
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
        self._nodes.add(node)
        if self._faults.node_losses_per_hour:
            stays_s = self._random.expovariate(self._faults.node_losses_per_hour / HOUR_S)
            notice = self._random.random() < 0.5
            self._time.after(stays_s, lambda: self._notify(node) if notice else self._leave(node))
        self._place()

    def _notify(self, node: SimulatedNode) -> None:
        self._nodes.close(node)
        self._time.after(self._faults.notice_s, lambda: self._leave(node))

    def _leave(self, node: SimulatedNode) -> None:
        self._nodes.remove(node)
        for worker in list(node.workers.values()):
            self._take_away(worker, WorkerLostError(f"{node.id} is out of reach", certain=False))
        self._time.after(self._faults.rejoin_s, self._join)

    def _place(self) -> None:
        while self._unplaced:
            worker = self._unplaced[0]
            if worker.alive:
                if not self._nodes.place(worker):
                    return
                self._time.after(self._durations.place_s, partial(self._start, worker))
            self._unplaced.popleft()

    def _start(self, worker: SimulatedWorker) -> None:
        if worker.alive and worker.node is not None:
            self._answer(worker.placing, worker.node.id)
            if self._faults.actor_deaths_per_hour:
                lives_s = self._random.expovariate(self._faults.actor_deaths_per_hour / HOUR_S)
                self._time.after(lives_s, lambda: self._die(worker))

    def _end_loading(self, worker: SimulatedWorker) -> None:
        if worker.alive:
            self._count()
            self._loaded += 1
            self.first_loaded = self._time.now if self.first_loaded is None else self.first_loaded
            worker.loaded = True
            self._answer(worker.loading, None)
            worker.loading = None
            self._begin_next(worker)

    def _die(self, worker: SimulatedWorker) -> None:
        running = worker.running if worker.alive else None
        if running and running[1] == "shard" and self._random.random() < self._faults.dies_after_commit:
            self._commit(worker, running[2])
        self._take_away(worker, WorkerLostError("its process ended"))

    def _take_away(self, worker: SimulatedWorker, error: WorkerLostError | None) -> None:
        """End a worker; its calls end with the error, or nobody waits for them any more."""
        if not worker.alive:
            return
        worker.alive = False
        self._forget_model(worker)
        calls = [worker.placing] if worker.node is None else []
        calls += [] if worker.loading is None else [worker.loading]
        calls += [] if worker.running is None else [worker.running[0]]
        calls += [waiting[0] for waiting in worker.waiting]
        self._end_running(worker)
        del self._workers[worker.name]
        if worker.node is not None:
            self._nodes.release(worker)
            self._place()
        if error is not None:
            # The driver hears of an idle worker's death when it sends the next call; its loading call is the witness.
            for call in calls:
                self._answer(call, error)

    def _forget_model(self, worker: SimulatedWorker) -> None:
        if worker.loaded:
            self._count()
            self._loaded -= 1
            worker.loaded = False

    def _rows_of(self, shard: int, worker: SimulatedWorker) -> int:
        done = min(0.95, (self._time.now - worker.began) / self._durations.shard_s)
        return int(done * self._shard_rows(shard))

    def _answer(self, call: Call, answer: Any) -> None:
        self._answers[call] = answer
        self._ended.append(call)

    def _count(self) -> None:
        """Add up workers' time since the last change of how many there are, and of how many run something."""
        since = self._time.now - self._counted
        self.held_s += self._loaded * since
        self.busy_s += len(self._running) * since
        self._counted = self._time.now

    def _pass(self, what: str, times: int = 1) -> None:
        """Let the driver spend the time of a message."""
        self.messages[what] += times
        self._time.now += times * self._durations.message_s
