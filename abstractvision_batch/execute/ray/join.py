"""Join a Ray cluster or start one, for as long as a run takes: its address, its token, its runtime environment.

Not covered: what is asked of a cluster once it is joined (`ray_cluster`), which one it is (`address`).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a library

import ray
from ray.exceptions import AuthenticationError, RayError

from abstractvision_batch.errors import ClusterError, SpecError
from abstractvision_batch.execute.interrupts import undisturbed
from abstractvision_batch.execute.ray.address import find_address
from abstractvision_batch.execute.ray.auth import MODE, explain_refusal, show_token_if_any
from abstractvision_batch.execute.ray.internals import connect_to_head, read_variables_again
from abstractvision_batch.execute.ray.ray_cluster import HEAD_TIMEOUT_S, first_line
from abstractvision_batch.job.model import ExecutionSpec

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
#: For Ray's processes to end by themselves.
SHUTDOWN_TIMEOUT_S = 2.0
_RAY_FOLDER = f"{Path(ray.__file__).parent}/"


@contextmanager
def joined_cluster(execution: ExecutionSpec) -> Iterator[bool]:
    """Join a cluster or start one, and leave it as it was found; gives whether nodes may join it.

    Raises:
        ClusterError: it cannot be reached or started.
        SpecError: the address is not one that a driver joins, or Ray was started here and cannot take the runtime_env.
    """
    runtime_env = execution.runtime_env.for_ray()
    if ray.is_initialized():
        if runtime_env:
            raise SpecError("execution.runtime_env: this program has initialised Ray already (give it to ray.init)")
        yield False
        return
    address = find_address(execution)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": runtime_env}
    started: set[Any] = set()
    try:
        if address is None:
            _start_ray(options if execution.address is None else {**options, "address": "local"})
            started |= _own_processes()
        else:
            _join_ray(address, options)
        yield address is not None
    finally:
        with undisturbed():
            if address is None:
                started |= _own_processes()
            ray.shutdown()
            _end_processes(started)


def _own_processes() -> set[Any]:
    """The processes of the Ray that this process has started: its node's services, their agents, the workers."""
    import psutil  # Ray brings it, and has its place known once it is imported

    found: set[Any] = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if any(_RAY_FOLDER in word for word in child.cmdline()):
                found |= {child, *child.children(recursive=True)}
    return found


def _end_processes(processes: Collection[Any]) -> None:
    """End what outlives Ray's own shutdown: agents of a node that was killed, or whose head was."""
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=SHUTDOWN_TIMEOUT_S)
    for process in alive:
        with suppress(psutil.Error):  # it ended meanwhile; one that has its number is not killed
            process.kill()
    psutil.wait_procs(alive, timeout=SHUTDOWN_TIMEOUT_S)


def _outlive_the_head() -> None:
    """Let `RayCluster.nodes` find that the head is gone: Ray itself would end this process with 1 after a minute."""
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", f"{3 * HEAD_TIMEOUT_S:.0f}")
    read_variables_again()


def _start_ray(options: Mapping[str, Any]) -> None:
    _outlive_the_head()
    for patience in (True, False):
        try:
            ray.init(include_dashboard=False, **options)
        except (RayError, RuntimeError, ConnectionError, ValueError) as exc:
            ray.shutdown()
            # On a loaded machine the head's own services can miss their deadline once.
            if not patience or not isinstance(exc, RuntimeError):
                raise ClusterError(f"ray: cannot start: {first_line(exc)}") from exc
            logger.warning("Ray did not start, trying once more: %s", first_line(exc))
        else:
            return


def _join_ray(address: str, options: Mapping[str, Any]) -> None:
    if ":" in address:  # `auto` is a cluster of this machine, whose token Ray finds
        _require_listener(address)
        _agree_on_token(address)
    _outlive_the_head()
    try:
        ray.init(address=address, **options)
    except (RayError, ConnectionError, RuntimeError, ValueError) as exc:
        ray.shutdown()
        raise ClusterError(f"{address}: cannot connect: {first_line(exc)}") from exc


def _agree_on_token(address: str) -> None:
    """Show a token where the cluster asks for one, and only there.

    A driver that shows one demands it too: the head of a cluster without tokens, which has none, could not ask the
    driver whether its actors are still wanted, and would end each as soon as it was made (seen with Ray 2.60).

    Raises:
        ClusterError: there is no token, or the cluster takes another.
    """
    given = os.environ.get(MODE)
    if not _refuses(address, mode="disabled"):
        if given == "token":
            raise ClusterError(f"{address}: the cluster asks for no token, and {MODE}=token insists on one (unset it)")
        return
    show_token_if_any()
    if os.environ.get(MODE) != "token" or _refuses(address, mode="token"):
        raise ClusterError(explain_refusal(address))


def _refuses(address: str, *, mode: str) -> bool:
    """Whether the cluster's head wants another token than it is shown in this mode."""
    given = os.environ.get(MODE)
    os.environ[MODE] = mode
    try:
        read_variables_again()
        with _silent_stderr():  # Ray's C++ logs each refusal there
            connect_to_head(address)
    except AuthenticationError:
        return True
    except RayError:
        return False  # whatever it is, joining will say
    finally:
        if given is None:
            del os.environ[MODE]
        else:
            os.environ[MODE] = given
    return False


@contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_listener(address: str) -> None:
    """Look before Ray does, which tries for minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as exc:
        raise ClusterError(f"{address}: cannot connect: {exc} (is the cluster up, and this its head?)") from exc
