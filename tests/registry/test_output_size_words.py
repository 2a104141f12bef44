"""The words that a card's rule of sizes has, and the counts that it may hold."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from abstractvision_batch.registry.output_size import OutputSize


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (OutputSize(scale=4), "the output is 4 times as wide and as high as the input image"),
        (OutputSize(area=1024, multiple_of=8), "the output has about 1024 pixels, its sides are multiples of 8"),
        (OutputSize(sizes=((64, 32), (32, 64))), "the output is one of 64x32, 32x64"),
        (OutputSize(from_image=True), "the size follows from the input image"),
    ],
)
def test_a_rule_is_said_in_words(rule: OutputSize, words: str) -> None:
    assert rule.describe() == words


@pytest.mark.parametrize(("count", "sound"), [(0, False), (1, True), (2**31 - 1, True), (2**31, False), (True, False)])
def test_a_count_is_a_whole_number_above_zero(count: int, sound: bool) -> None:
    with nullcontext() if sound else pytest.raises(ValidationError, match="multiple_of"):
        OutputSize.model_validate({"area": 64, "multiple_of": count})
