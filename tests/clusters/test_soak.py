"""The soak of `make bench NAME=soak`, small: a run that is killed again and again finishes by running again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import soak

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_whose_driver_and_actors_are_killed_at_random_is_whole_and_repeats_only_what_was_in_flight(
    tmp_path: Path,
) -> None:
    soaked = soak(tmp_path, requests=120, kills=6, actors=2, delay_s=0.1, seed=1)

    assert soaked.broken == []
    assert len(soaked.kills) == 6
    assert soaked.generated_twice <= soaked.in_flight
