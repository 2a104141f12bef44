"""What a run asks of Ray: join a cluster, start workers, call them, learn what became of them. The only file with Ray.

Ray's own errors end here: a call answers, or it raises one of our errors, `WorkerLostError` or `CallCancelledError`.

Not covered: what to run and what a lost worker means (`actor_pool`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report, SharedLimit
from abstractvision_batch.errors import AbstractVisionError, ClusterError
from abstractvision_batch.execute.cluster import Call, CallCancelledError, Node, StartedWorker, WorkerLostError
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.results import RowResult
from abstractvision_batch.execute.worker import Board, Worker

logger = logging.getLogger(__name__)


@contextmanager
def joined_cluster(address: str | None) -> Iterator[None]:
    """Join a cluster or start one, and leave it as it was found.

    Raises:
        ClusterError: it cannot be reached or started.
    """
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


class RayCluster:
    """The cluster that this process has joined, for one run: see `Cluster`."""

    def __init__(self, context: RunContext) -> None:
        self._context = ray.put(context)
        self._board = _start_helper(Board)
        # No state that cannot be lost: one that Ray starts again hears from the workers what is in flight.
        self._limit = None
        if context.max_in_flight is not None:
            self._limit = _start_helper(SharedLimit, context.max_in_flight, max_restarts=-1)
        self._out: dict[Call, Any] = {}
        self._ended: SimpleQueue[Call] = SimpleQueue()

    def now(self) -> float:
        return time.monotonic()

    def nodes(self) -> Sequence[Node]:
        # Ray has no public names for these two; its own Train, Serve and autoscaler ask here too.
        leaving = ray._private.state.state.get_draining_nodes()
        free = ray._private.state.available_resources_per_node()
        return [
            Node(id=node["NodeID"], resources=node["Resources"], free=free.get(node["NodeID"], {}), leaving=leaves)
            for node in ray.nodes()
            if node["Alive"]
            for leaves in (node["NodeID"] in leaving,)
        ]

    def start_worker(self, name: str, options: Mapping[str, Any]) -> StartedWorker:
        exchange = None if self._limit is None else way_to(self._limit)
        told = (self._board, _is_cancelled, _ask_board(self._board), exchange, name)
        handle = ray.remote(Worker).options(**options).remote(self._context, *told)
        return StartedWorker(handle, self.ask_node(handle), self._watch(handle.load.remote()))

    def run_shard(self, worker: Any, shard: int, tries: int | None) -> Call:
        return self._watch(worker.run_shard.remote(shard, tries))

    def run_rows(self, worker: Any, shard: int, indexes: tuple[int, ...], tries: int | None) -> Call:
        return self._watch(worker.run_rows.remote(shard, indexes, tries))

    def commit(self, worker: Any, shard: int, results: Mapping[int, RowResult]) -> Call:
        return self._watch(worker.commit.remote(shard, results))

    def ask_node(self, worker: Any) -> Call:
        return self._watch(worker.__ray_call__.remote(_node_id))

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
        try:
            return call.result()
        except RayActorError as exc:
            raise WorkerLostError(_first_line(exc), certain=not isinstance(exc, ActorUnavailableError)) from exc
        except TaskCancelledError as exc:
            raise CallCancelledError from exc
        except RayTaskError as exc:
            if isinstance(exc.cause, AbstractVisionError):
                raise exc.cause from exc
            raise

    def cancel(self, calls: Iterable[Call]) -> None:
        for reference in [self._out[call] for call in calls if call in self._out]:
            ray.cancel(reference)

    def stop(self, names: Iterable[str]) -> None:
        ray.get(self._board.stop.remote(list(names)))

    def end(self, worker: Any) -> None:
        ray.kill(worker)

    def release_share(self, name: str) -> None:
        if self._limit is not None:
            self._limit.drop.remote(name)

    def rows_so_far(self, shards: Collection[int]) -> Mapping[int, tuple[int, int]]:
        rows: Mapping[int, tuple[int, int]] = ray.get(self._board.read.remote(set(shards)))
        return rows

    def close(self) -> None:
        for helper in (self._board, self._limit):
            if helper is not None:
                ray.kill(helper)

    def _watch(self, reference: Any) -> Call:
        call: Future[Any] = reference.future()
        self._out[call] = reference
        call.add_done_callback(self._ended.put)  # on a thread of Ray's
        return call


def way_to(limit: Any) -> Exchange:
    """How a worker reports to the actor that holds the run's limit of requests in flight."""

    async def exchange(report: Report) -> Allowance:
        try:
            allowance: Allowance = await limit.exchange.remote(report)
        except RayError as exc:
            raise ConnectionError(_first_line(exc)) from exc
        return allowance

    return exchange


def _ask_board(board: Any) -> Callable[[str], bool]:
    """How a worker asks the driver's board whether it may begin another call."""

    def may_begin(worker: str) -> bool:
        try:
            return bool(ray.get(board.may_begin.remote(worker)))
        except RayError:
            return False  # the board went with the driver: this worker follows soon

    return may_begin


def _start_helper(kind: type, *args: Any, max_restarts: int = 0) -> Any:
    """Start an actor that belongs to the driver: on its node, since workers' nodes may go, and without a CPU."""
    here = NodeAffinitySchedulingStrategy(_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": max_restarts, "scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(*args)


def _node_id(worker: object = None) -> str:
    return str(ray.get_runtime_context().get_node_id())


def _is_cancelled() -> bool:
    return bool(ray.get_runtime_context().is_canceled())


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
