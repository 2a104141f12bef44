"""The real driver on a cluster of many workers that generate nothing, in a time of its own."""

from __future__ import annotations

import logging
import time

import pytest

from benchmarks.simulate_cluster import Simulated, simulate
from tests.support.simulated_nodes import Durations, Faults


@pytest.fixture(scope="module")
def faulty() -> Simulated:
    """100 actors and 100,000 requests; actors die, nodes leave and join, one in ten is slow."""
    logging.disable(logging.WARNING)  # one for each worker that is lost
    try:
        faults = Faults(actor_deaths_per_hour=2.0, node_losses_per_hour=2.0, stragglers=0.1)
        return simulate(100, 100_000, shard_size=64, durations=Durations(message_s=0.0004), faults=faults, seed=3)
    finally:
        logging.disable(logging.NOTSET)


def test_every_shard_is_done_once_though_actors_die_and_nodes_leave(faulty: Simulated) -> None:
    assert faulty.done_once
    assert faulty.lost_work > 0
    assert faulty.messages["worker start"] > 2 * 120  # two messages each: many took another's place


def test_a_shard_takes_a_few_messages_and_actors_are_kept_busy(faulty: Simulated) -> None:
    assert faulty.driver_messages / faulty.shards < 4
    assert faulty.busy > 0.98
    assert faulty.polls / faulty.took_s < 5


@pytest.mark.slow
def test_messages_of_a_shard_do_not_grow_with_the_cluster() -> None:
    few, many = (simulate(actors, actors * 20 * 16, shard_size=16) for actors in (10, 400))

    assert few.done_once and many.done_once
    assert many.driver_messages / many.shards == pytest.approx(few.driver_messages / few.shards, rel=0.05)
    assert many.polls / many.took_s == pytest.approx(few.polls / few.took_s, rel=0.2)


def test_a_large_cluster_may_lose_some_workers_while_they_load() -> None:
    logging.disable(logging.WARNING)
    try:
        faults = Faults(actor_deaths_per_hour=0.5)
        one = simulate(400, 400 * 16, shard_size=16, durations=Durations(load_s=120.0), faults=faults)
    finally:
        logging.disable(logging.NOTSET)

    assert one.done_once


def test_a_simulation_can_be_repeated() -> None:
    faults = Faults(actor_deaths_per_hour=5.0)
    first, second = (simulate(20, 20_000, shard_size=64, faults=faults, seed=2) for _ in range(2))

    assert (first.took_s, first.messages) == (second.took_s, second.messages)
    assert time.thread_time() > first.driver_cpu_s > 0


def test_workers_of_several_variants_load_each_model_once_and_are_kept_busy() -> None:
    one = simulate(20, 40_000, shard_size=64, variants=3)

    assert one.done_once  # each shard with its own model
    assert set(one.loads) == {1}
    assert len(one.loads) < 2 * 20  # few had to change
    assert one.busy > 0.98


def test_workers_that_die_and_nodes_that_leave_cost_no_variant_its_model() -> None:
    logging.disable(logging.WARNING)
    try:
        faults = Faults(actor_deaths_per_hour=2.0, node_losses_per_hour=2.0, stragglers=0.1)
        one = simulate(20, 40_000, shard_size=64, faults=faults, variants=7, seed=5)
    finally:
        logging.disable(logging.NOTSET)

    assert one.done_once
    assert one.lost_work > 0
