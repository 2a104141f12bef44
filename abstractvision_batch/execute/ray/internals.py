"""Every private name of Ray's that is used here; a test for each says at once what an upgrade of Ray breaks.

Ray has no public names for these: its own Train, Serve and autoscaler ask in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: Loggers of Ray's Jobs client that report each step at INFO.
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


def read_variables_again() -> None:
    """Let Ray's C++ read its environment variables, which it has done when it was imported."""
    import ray

    ray._raylet.Config.initialize("")


def connect_to_head(address: str) -> None:
    """Ask the head of a cluster, with the token that this process shows.

    Raises:
        AuthenticationError: it takes another token, or none.
        RayError: it does not answer.
    """
    import ray

    ray._raylet.GcsClient(address=address)


def draining_nodes() -> Collection[str]:
    """Return the ids of the nodes that are about to leave."""
    import ray

    leaving: Mapping[str, object] = ray._private.state.state.get_draining_nodes()
    return leaving.keys()


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """Return what each node has left, by its id."""
    import ray

    free: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()
    return free
