"""Each private name of Ray's is there and answers as `internals` says: these fail first where an upgrade breaks one."""

from __future__ import annotations

import importlib
import logging

import pytest
import ray
from ray.exceptions import RayError

from abstractvision_batch.execute.ray.internals import (
    TALKATIVE,
    connect_to_head,
    draining_nodes,
    free_resources,
    read_variables_again,
)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_cluster_says_what_is_free_and_who_leaves() -> None:
    (node,) = ray.nodes()

    assert free_resources()[node["NodeID"]]["CPU"] == node["Resources"]["CPU"] == 2
    assert node["NodeID"] not in draining_nodes()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_head_is_asked_at_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    connect_to_head(ray.get_runtime_context().gcs_address)

    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    read_variables_again()
    try:
        with pytest.raises(RayError):
            connect_to_head("127.0.0.1:9")
    finally:
        monkeypatch.undo()
        read_variables_again()


@pytest.mark.parametrize("name", TALKATIVE)
def test_the_talkative_loggers_are_those_of_rays_modules(name: str) -> None:
    module = importlib.import_module(name)

    assert logging.getLogger(name) in vars(module).values()
