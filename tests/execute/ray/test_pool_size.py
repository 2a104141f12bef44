"""How many actors a run has, for made-up clusters."""

from __future__ import annotations

from typing import Any

import pytest

from abstractvision_batch.execute.ray.cluster import Node
from abstractvision_batch.execute.ray.pool_size import PoolSize
from tests.support.run_context import context_of

NEEDS = {"CPU": 1.0}


def _node(cpus: float, *, free: float | None = None, leaving: bool = False) -> Node:
    return Node("a", {"CPU": cpus}, free={"CPU": cpus if free is None else free}, leaving=leaving)


def _size(**execution: Any) -> PoolSize:
    return PoolSize([context_of(**execution)], NEEDS)


@pytest.mark.parametrize(("waiting", "actors"), [(100, 20), (5, 5), (0, 1)])
def test_a_number_is_asked_for_whatever_the_cluster_has_but_no_more_than_there_is_work(
    waiting: int, actors: int
) -> None:
    size = _size(actors=20)
    size.look([_node(2)], actors=0, pending=0)

    assert size.wanted(busy=0, waiting=waiting) == actors


@pytest.mark.parametrize(("busy", "waiting", "actors"), [(0, 100, 8), (8, 0, 8), (2, 1, 3), (1, 0, 2), (0, 0, 2)])
def test_a_range_is_clamped_and_keeps_its_least(busy: int, waiting: int, actors: int) -> None:
    assert _size(actors={"min": 2, "max": 8}).wanted(busy=busy, waiting=waiting) == actors


def test_auto_takes_what_is_free_and_follows_nodes_that_join_and_leave() -> None:
    size = _size()
    seen = []
    for nodes, actors in (
        ([_node(4)], 0),
        ([_node(4, free=0), _node(2)], 4),
        ([_node(4, free=0), _node(2, free=0)], 6),
        ([_node(4, free=0), _node(2, free=0, leaving=True)], 4),
        ([], 0),
        ([_node(8)], 1),
    ):
        size.look(nodes, actors=actors, pending=0)
        seen.append(size.wanted(busy=0, waiting=1000))

    assert seen == [4, 6, 6, 4, 1, 8]


def test_auto_leaves_to_others_what_they_use_and_takes_it_when_they_end() -> None:
    size = _size()
    size.look([_node(4, free=1)], actors=0, pending=0)
    assert size.wanted(busy=0, waiting=1000) == 1

    size.look([_node(4, free=3)], actors=1, pending=0)
    assert size.wanted(busy=1, waiting=1000) == 4


def test_auto_asks_for_no_more_while_one_has_no_place() -> None:
    """Else an autoscaler would see its demand grow with each node that it adds."""
    size = _size()
    size.look([_node(4, free=0)], actors=0, pending=0)
    size.look([_node(4, free=0), _node(4, free=4)], actors=1, pending=1)

    assert size.wanted(busy=0, waiting=1000) == 1


def test_a_stale_view_of_what_is_free_does_not_ask_for_more_than_nodes_have() -> None:
    size = _size()
    size.look([_node(4, free=4)], actors=4, pending=0)

    assert size.wanted(busy=4, waiting=1000) == 4


@pytest.mark.parametrize(("backend", "actors"), [({}, 2), ({"max_concurrency": 1}, 2), ({"max_concurrency": 128}, 8)])
def test_a_server_has_no_more_actors_than_keep_it_busy_and_at_least_two(backend: dict[str, Any], actors: int) -> None:
    context = context_of({"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", **backend})
    size = PoolSize([context], NEEDS)
    size.look([_node(64)], actors=0, pending=0)

    assert size.wanted(busy=0, waiting=1000) == actors
