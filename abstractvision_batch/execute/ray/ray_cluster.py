"""What a run asks of Ray: start workers, call them, learn what became of them and of the nodes.

Ray's own errors end here: a call answers, or it raises one of our errors, `WorkerLostError` or `CallCancelledError`.

Not covered: joining the cluster (`join`), what to run and what a lost worker means (`pool`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import AbstractVisionError, ClusterError
from abstractvision_batch.execute.brake import Failure
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.ray.cluster import Call, CallCancelledError, Node, StartedWorker, WorkerLostError
from abstractvision_batch.execute.ray.gpu_memory import smallest_gpu_bytes
from abstractvision_batch.execute.ray.internals import draining_nodes, free_resources
from abstractvision_batch.execute.ray.worker import NOTE_S, Board, BoardAnswer, TellBrake, Worker
from abstractvision_batch.runs.columns import RowResult

#: Silence of the cluster's head after which a run gives up; nodes and workers give up on their own after as long.
HEAD_TIMEOUT_S = 60.0
#: For the board, which is on the driver's own machine, to answer.
BOARD_TIMEOUT_S = 5.0
#: For nodes to say how large their GPUs are; starting a process there is most of it.
GPU_TIMEOUT_S = 60.0


class RayCluster:
    """The cluster that this process has joined, for one pool of a run: see `Cluster`.

    Args:
        contexts: Of the variants that its workers run; their numbers are positions here.
        grows: Whether nodes may join.
    """

    def __init__(self, contexts: Sequence[RunContext], *, grows: bool) -> None:
        self.grows = grows
        self._contexts = [ray.put(context) for context in contexts]
        self._board = _start_helper(Board)
        self._limit_of = [context.server_limit for context in contexts]
        # No state that cannot be lost: one that Ray starts again hears from the workers what is in flight.
        self._limits = {
            limit: _start_helper(SharedLimit, limit.requests, max_restarts=-1)
            for limit in dict.fromkeys(self._limit_of)
            if limit is not None
        }
        self._headless = False
        self._out: dict[Call, Any] = {}
        self._ended: SimpleQueue[Call] = SimpleQueue()

    def now(self) -> float:
        return time.monotonic()

    def nodes(self) -> Sequence[Node]:
        # On a thread that nobody waits for at the end: while the head is away, Ray's answer may never come.
        answer: SimpleQueue[list[Node] | RayError] = SimpleQueue()
        threading.Thread(target=_list_nodes, args=(answer,), daemon=True, name="nodes").start()
        try:
            nodes = answer.get(timeout=HEAD_TIMEOUT_S)
        except Empty:
            self._headless = True
            raise ClusterError(
                f"the cluster's head did not answer for {HEAD_TIMEOUT_S:g} s (when it is up, running again resumes)"
            ) from None
        if isinstance(nodes, RayError):
            raise ClusterError(f"the cluster's nodes cannot be listed: {first_line(nodes)} (running again resumes)")
        return nodes

    def measure_gpus(self, nodes: Sequence[Node]) -> Mapping[str, int]:
        asked: dict[Any, str] = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            task = ray.remote(smallest_gpu_bytes).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[task.remote()] = node.id
        sizes: dict[str, int] = {}
        ended, late = ray.wait(list(asked), num_returns=len(asked), timeout=GPU_TIMEOUT_S) if asked else ([], [])
        for reference in ended:
            with suppress(RayError):  # the node is gone
                if (size := ray.get(reference)) is not None:
                    sizes[asked[reference]] = size
        for reference in late:
            ray.cancel(reference)
        return sizes

    def start_worker(self, name: str, options: Mapping[str, Any]) -> StartedWorker:
        told = (self._board, _is_cancelled, _node_id, _ask_board(self._board), _tell_brake(self._board), name)
        handle = ray.remote(Worker).options(**options).remote(*told)
        return StartedWorker(handle, self.ask_node(handle))

    def load(self, worker: Any, variant: int) -> Call:
        limit = self._limit_of[variant]
        exchange = None if limit is None else limit_client(self._limits[limit])
        return self._watch(worker.load.remote(variant, self._contexts[variant], exchange))

    def run_shard(self, worker: Any, shard: int, tries: int | None) -> Call:
        return self._watch(worker.run_shard.remote(shard, tries))

    def run_rows(self, worker: Any, shard: int, indexes: tuple[int, ...], tries: int | None) -> Call:
        return self._watch(worker.run_rows.remote(shard, indexes, tries))

    def commit(self, worker: Any, variant: int, shard: int, results: Mapping[int, RowResult]) -> Call:
        return self._watch(worker.commit.remote(self._contexts[variant], shard, results))

    def ask_node(self, worker: Any) -> Call:
        return self._watch(worker.node_id.remote())

    def wait(self, timeout_s: float) -> Sequence[Call]:
        # Not ray.wait, which looks at every call that is still out: 0.4 ms an answer more with 2,000 of them.
        ended: list[Call] = []
        with suppress(Empty):
            ended.append(self._ended.get(timeout=timeout_s))
            while True:
                ended.append(self._ended.get_nowait())
        for call in ended:
            del self._out[call]
        return ended

    def answer_of(self, call: Call) -> Any:
        with _our_errors():
            return call.result()

    def cancel(self, calls: Iterable[Call]) -> None:
        for reference in [self._out[call] for call in calls if call in self._out]:
            ray.cancel(reference)

    def stop(self, names: Iterable[str]) -> None:
        self._tell_board("stop", list(names))

    def stop_variant(self, variant: int) -> None:
        self._tell_board("stop_variant", variant)

    def end(self, worker: Any) -> None:
        if not self._headless:
            ray.kill(worker)

    def release_share(self, name: str) -> None:
        for limit in self._limits.values():
            limit.drop.remote(name)

    def rows_so_far(self, shards: Collection[int]) -> Mapping[int, tuple[int, int]]:
        rows: Mapping[int, tuple[int, int]] | None = self._tell_board("read", set(shards))
        return rows or {}

    def close(self) -> None:
        if self._headless:
            return  # actors end with their driver; to end them one by one would wait for the head
        for helper in (self._board, *self._limits.values()):
            ray.kill(helper)

    def _tell_board(self, method: str, *args: Any) -> Any:
        """Its answer; None where it has not started yet, which a runtime environment may take minutes for."""
        try:
            with _our_errors(), suppress(GetTimeoutError):
                return ray.get(getattr(self._board, method).remote(*args), timeout=BOARD_TIMEOUT_S)
        except WorkerLostError as exc:
            raise ClusterError(f"the driver's board is gone: {exc} (running again resumes)") from exc
        return None

    def _watch(self, reference: Any) -> Call:
        call: Future[Any] = reference.future()
        self._out[call] = reference
        call.add_done_callback(self._ended.put)  # on a thread of Ray's
        return call


@contextmanager
def _our_errors() -> Iterator[None]:
    """What Ray raises for a call that has ended, as errors of ours."""
    try:
        yield
    except RayActorError as exc:
        raise WorkerLostError(first_line(exc), certain=not isinstance(exc, ActorUnavailableError)) from exc
    except TaskCancelledError as exc:
        raise CallCancelledError from exc
    except RuntimeEnvSetupError as exc:
        raise ClusterError(f"execution.runtime_env: Ray cannot set it up: {_last_line(exc)}") from exc
    except RayTaskError as exc:
        if isinstance(exc.cause, AbstractVisionError):
            raise exc.cause from exc
        raise


def limit_client(limit: Any) -> Exchange:
    """Return the coroutine that workers report through to the actor that holds the run's limit of requests."""

    async def exchange(report: Report) -> Allowance:
        try:
            allowance: Allowance = await limit.exchange.remote(report)
        except RayError as exc:
            raise ConnectionError(first_line(exc)) from exc
        return allowance

    return exchange


def _ask_board(board: Any) -> Callable[[str, int], BoardAnswer]:
    """Return the function with which a worker asks the driver's board before a call."""

    def ask(worker: str, variant: int) -> BoardAnswer:
        try:
            answer: BoardAnswer = ray.get(board.ask.remote(worker, variant))
        except RayError:
            return BoardAnswer(True, NOTE_S)  # the board went with the driver: this worker follows soon
        return answer

    return ask


def _tell_brake(board: Any) -> TellBrake:
    """How a worker tells the driver's board what became of a variant's first requests."""

    def brake(variant: int, succeeded: int, failures: Sequence[Failure]) -> tuple[bool, str | None]:
        try:
            answer: tuple[bool, str | None] = ray.get(board.brake.remote(variant, succeeded, failures))
        except RayError:
            return True, None  # the board went with the driver: this worker follows soon
        return answer

    return brake


def _start_helper(kind: type, *args: Any, max_restarts: int = 0) -> Any:
    """Start an actor that belongs to the driver: on its node, since workers' nodes may go, and without a CPU."""
    here = NodeAffinitySchedulingStrategy(_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": max_restarts, "scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(*args)


def _list_nodes(answer: SimpleQueue[list[Node] | RayError]) -> None:
    try:
        leaving, free = draining_nodes(), free_resources()
        alive = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    except RayError as exc:
        answer.put(exc)
    else:
        answer.put([Node(id, has, free.get(id, has), leaving=id in leaving) for id, has in alive])


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _is_cancelled() -> bool:
    return bool(ray.get_runtime_context().is_canceled())


def first_line(error: BaseException) -> str:
    """What of an error of Ray's fits into a message: the rest is a traceback of a worker, or advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
