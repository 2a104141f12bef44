"""Messages that name what is there, and what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.planning import Planner


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\n<!DOCTYPE html><title>Log in</title>", "a web page, not an image"),
        (b"<html><body>404</body></html>", "a web page, not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b'{"error": "no"}', "JSON, not an image"),
        (b"", "the file is empty"),
        (b"\x01\x02\x03 what", "not a readable image: its bytes are of no known kind"),
    ],
)
def test_a_file_that_is_only_named_like_an_image_is_called_what_it_is(
    planner: Planner, content: bytes, expected: str
) -> None:
    planner.write("a.png", content)

    (problem,) = planner.problems([{"prompt": "a", "image": "a.png"}], task="image_to_image")

    assert f"image: a.png: {expected}" in problem


@pytest.mark.parametrize("item", [{"a sign": "open late"}, {"a red fox, 35mm": None}, {"ratio 3": 4}])
def test_an_inline_prompt_that_yaml_reads_as_a_mapping_is_to_be_quoted(planner: Planner, item: dict[str, Any]) -> None:
    first, *_ = planner.problems(["a fox", item])

    assert first.startswith("<spec>: prompts.source[1]: YAML reads this as a mapping (put the prompt into quotes: ")


@pytest.mark.parametrize("sections", [{"params": {"seed": -1}}, {"matrix": {"seed": [3, -1]}}])
def test_a_seed_of_minus_one_is_answered_with_what_to_do(planner: Planner, sections: dict[str, Any]) -> None:
    (problem,) = planner.problems(["a fox"], **sections)

    assert "-1 is not an integer from 0 to 9223372036854775807 (leave it out for a derived seed)" in problem
    assert "(leave it out for a derived seed)" in planner.problems([{"prompt": "a fox", "seed": -1}])[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "seed": "1_000"}, "'1_000' is not a whole number"),
        ({"prompt": "a", "steps": "１２"}, "is not a whole number"),
        ({"prompt": "a", "negative_prompt": ["b", "c"]}, "is not a text"),
        ({"prompt": "a", "negative_prompt": False}, "is not a text"),
    ],
)
def test_a_cell_of_another_kind_is_refused_with_its_place(planner: Planner, row: dict[str, Any], said: str) -> None:
    (problem,) = planner.problems([row])

    assert said in problem


def test_a_number_of_hundreds_of_digits_in_a_file_is_refused_with_its_place(planner: Planner, tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    path.write_text('{"prompt": "a", "guidance_scale": 1' + "0" * 400 + "}\n")

    (problem,) = planner.problems(str(path))

    assert "huge.jsonl:1" in problem
    assert "is not a number" in problem
