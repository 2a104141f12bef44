"""Which Ray cluster a driver joins: the spec's, the environment's, or one that it starts for itself. Imports no Ray."""

from __future__ import annotations

import os

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.model import ExecutionSpec

#: Set by Ray for the driver of a submitted job, and for no other.
INSIDE_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
ADDRESS = "RAY_ADDRESS"


def find_address(execution: ExecutionSpec, *, place: str = "execution.address") -> str | None:
    """The cluster to join; None where one is started here. A driver inside of a Ray job joins the job's own.

    Args:
        execution: Its `address` wins over the environment's, but inside of a job.
        place: Where the spec says so, for messages.

    Raises:
        SpecError: what is named is not what a driver joins.
    """
    given, of_environment = execution.address, os.environ.get(ADDRESS)
    if of_environment and (given is None or INSIDE_JOB in os.environ):
        require_driver_address(of_environment, f"{ADDRESS}={of_environment}", "; or set execution.executor: inline")
        return of_environment
    if given is None or given == "local":
        return None
    require_driver_address(given, f"{place}: {given}")
    return given


def require_driver_address(address: str, place: str, also: str = "") -> None:
    """Check that an address is not that of another service of Ray; `also` would help too.

    Raises:
        SpecError: it is; the message says whose.
    """
    instead = f"or the head's host:6379, on a machine that the cluster's nodes reach{also}"
    if address.startswith(("http://", "https://")):
        raise SpecError(
            f"{place}: is where jobs are submitted, not what a driver joins "
            f"(avbatch submit SPEC --address {address}, {instead})"
        )
    if address.startswith("ray://"):
        raise SpecError(
            f"{place}: is Ray Client's, which lacks what a run asks of a cluster "
            f"(avbatch submit SPEC --address http://HEAD:8265, {instead})"
        )
