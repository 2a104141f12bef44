"""Adapters of named sets in the record of a run's weights."""

from __future__ import annotations

from abstractvision_batch.registry.weights import OF_A_SET, Weights, WeightsFile, WeightsPart

MODEL = WeightsPart("model", "m", None, (WeightsFile("a", 1, "0" * 64),))


def _set(sha256: str) -> WeightsPart:
    return WeightsPart(f"{OF_A_SET}soft 1", "s", None, (WeightsFile("s", 1, sha256 * 64),))


def test_a_further_set_is_no_other_weights_and_a_changed_adapter_is() -> None:
    alone, with_set, changed = Weights((MODEL,)), Weights((MODEL, _set("1"))), Weights((MODEL, _set("2")))

    assert alone.differing_files(with_set) == with_set.differing_files(alone) == []
    assert with_set.differing_files(changed) == [f"{OF_A_SET}soft 1/s"]
