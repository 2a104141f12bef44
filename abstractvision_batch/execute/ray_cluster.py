"""What a run asks of Ray: join a cluster, start workers, call them, learn what became of them. The only file with Ray.

Ray's own errors end here: a call answers, or it raises one of our errors, `WorkerLostError` or `CallCancelledError`.

Not covered: what to run and what a lost worker means (`ray_executor`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from abstractvision_batch.backends.shared_limit import Allowance, Exchange, Report
from abstractvision_batch.errors import AbstractVisionError, ClusterError
from abstractvision_batch.execute.worker import Worker

logger = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """A worker's process ended or is out of reach."""

    def __init__(self, message: str, *, certain: bool = True) -> None:
        super().__init__(message)
        self.certain = certain
        """False where Ray does not know yet what happened, as when its node went down a moment ago."""


class CallCancelledError(Exception):
    """Ray ended a call that was cancelled."""


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


def cluster_resources() -> Mapping[str, float]:
    """What all nodes have, by Ray's names."""
    found: dict[str, float] = ray.cluster_resources()
    return found


def share(value: object) -> Any:
    """Put something where every worker can take it from."""
    return ray.put(value)


def start_helper(kind: type, *args: Any, max_restarts: int = 0) -> Any:
    """Start an actor that belongs to the driver: on its node, since workers' nodes may go, and without a CPU."""
    here = NodeAffinitySchedulingStrategy(_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": max_restarts, "scheduling_strategy": here}
    return ray.remote(kind).options(**options).remote(*args)


def start_worker(options: Mapping[str, Any], context: Any, board: Any, limit: Any, name: str) -> tuple[Any, Any, Any]:
    """Start a worker where there is room for it.

    Returns:
        Its handle, the call that answers with its node's id once it runs, and the call that loads its model.
    """
    exchange = None if limit is None else way_to(limit)
    told = (board, _is_cancelled, _ask_board(board), exchange, name)
    handle = ray.remote(Worker).options(**options).remote(context, *told)
    return handle, ask_node(handle), handle.load.remote()


def ask_node(handle: Any) -> Any:
    """A call that answers with the id of a worker's node, or says for certain that the worker is no more."""
    return handle.__ray_call__.remote(_node_id)


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


def wait_for_answers(calls: Iterable[Any], *, timeout_s: float) -> Sequence[Any]:
    """Calls that have ended; waits until one has, but no longer than `timeout_s`."""
    waiting = list(calls)
    ended: Sequence[Any] = ray.wait(waiting, num_returns=1, timeout=timeout_s)[0] if waiting else ()
    return ended


def answer_of(call: Any) -> Any:
    """What a call that has ended answered.

    Raises:
        WorkerLostError: the worker is no more.
        CallCancelledError: it was cancelled.
        AbstractVisionError: what it raised.
    """
    try:
        return ray.get(call)
    except RayActorError as exc:
        raise WorkerLostError(_first_line(exc), certain=not isinstance(exc, ActorUnavailableError)) from exc
    except TaskCancelledError as exc:
        raise CallCancelledError from exc
    except RayTaskError as exc:
        if isinstance(exc.cause, AbstractVisionError):
            raise exc.cause from exc
        raise


def cancel(calls: Iterable[Any]) -> None:
    """Ask calls to end: they find out when they poll."""
    for call in list(calls):
        ray.cancel(call)


def kill(*handles: Any) -> None:
    """End actors at once, if they live."""
    for handle in handles:
        ray.kill(handle)


def list_nodes() -> tuple[list[Mapping[str, Any]], set[str]]:
    """All nodes, and the ids of those that will be taken away soon."""
    # Ray has no public name for the second; its own Train and Serve ask here too.
    return ray.nodes(), set(ray._private.state.state.get_draining_nodes())


def _node_id(worker: object = None) -> str:
    return str(ray.get_runtime_context().get_node_id())


def _is_cancelled() -> bool:
    return bool(ray.get_runtime_context().is_canceled())


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
