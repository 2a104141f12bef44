"""An unknown word is answered with the nearest known one, in the same words everywhere."""

from __future__ import annotations

import pytest

from abstractvision_batch.registry.model_names import suggest_model
from abstractvision_batch.text.suggestions import hint_for

IDS = ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell", "stabilityai/sdxl-turbo")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("eulr", "did you mean euler?"), ("EULER", "did you mean euler?"), ("x", "there are: euler, heun")],
)
def test_a_hint_names_the_nearest_word_or_says_what_there_is(word: str, hint: str) -> None:
    assert hint_for(word, ["euler", "heun"], "there are: euler, heun") == hint


@pytest.mark.parametrize("word", ["flux", "FLUX.1-dev", "flux.1-dev", "black-forest-labs/flux.1-dev"])
def test_a_model_is_suggested_by_a_part_of_its_id_in_any_case(word: str) -> None:
    assert suggest_model(word, IDS) == "black-forest-labs/FLUX.1-dev"
