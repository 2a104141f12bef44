from __future__ import annotations

import pytest

from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.nodes import ClusterNodes

NEEDS = {"CPU": 2.0, "GPU": 1.0}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _node(name: str, *, leaving: bool = False, cpus: float = 4, gpus: float = 1) -> Node:
    resources = {"CPU": cpus, "GPU": gpus}
    return Node(name, resources, free=resources, leaving=leaving)


def test_a_node_is_gone_once_it_is_down_unknown_or_about_to_leave() -> None:
    nodes = ClusterNodes(NEEDS, wait_s=10)
    nodes.look([_node("a"), _node("b"), _node("c")])
    nodes.look([_node("a"), _node("c", leaving=True)])

    assert [nodes.is_gone(name) for name in ("a", "b", "c", "d", None)] == [False, True, True, True, False]
    assert [nodes.is_leaving(name) for name in ("a", "b", "c", "d", None)] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "left",
    [[], [_node("a", cpus=1)], [_node("a", gpus=0)], [_node("a", leaving=True)]],
    ids=["none", "too few CPUs", "no GPU", "leaving"],
)
def test_a_cluster_without_a_node_that_can_hold_a_worker_is_waited_for_and_no_longer(
    left: list[Node],
) -> None:
    clock = Clock()
    nodes = ClusterNodes(NEEDS, wait_s=10, now=clock)
    clock.now_s = 100
    nodes.look([_node("a")])
    clock.now_s = 110
    nodes.look(left)
    clock.now_s = 111

    with pytest.raises(ClusterError, match=r"2 CPU, 1 GPU.*execution\.node_wait_s \(10 s\)"):
        nodes.look(left)


def test_a_node_that_comes_back_in_time_ends_the_wait() -> None:
    clock = Clock()
    nodes = ClusterNodes(NEEDS, wait_s=10, now=clock)
    for clock.now_s, up in ((9, []), (10, [_node("a")]), (19, []), (20, [_node("a")]), (30, [])):
        nodes.look(up)
