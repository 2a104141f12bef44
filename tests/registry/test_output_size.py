"""Sizes that a model makes of those asked for: what cards say, and what a spec is told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.huggingface_diffusers.families import OUTPUT_SIZES
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.registry.card_file import parse_cards
from abstractvision_batch.registry.cards import load_cards
from tests.support.tiny_diffusers import gray

HIDREAM = "HiDream-ai/HiDream-I1-Full"


def spec(model: str, task: str = "text_to_image", **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"version": 1, "name": "x", "task": task, "model": model, "output": {"path": "out"}}
    return {**base, "backend": {"kind": "diffusers"}, "prompts": {"source": ["a fox"]}, **fields}


def test_cards_say_what_their_pipelines_do_with_sizes() -> None:
    """One fact in two places: the backend knows classes without a card, a spec is checked without the backend."""
    for card in load_cards().values():
        for task, name in card.backends.get("diffusers", {}).get("pipelines", {}).items():
            assert card.output_size("diffusers", task) == OUTPUT_SIZES.get(name), (card.id, task)


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"width": 512, "height": 512}},
        {"matrix": {"width": [1024, 512], "height": [1024]}},
        {"zip": {"width": [1024, 512], "height": [1024, 512]}},
        {"params": {"width": 512}},
    ],
)
def test_a_size_that_would_come_out_as_another_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as error:
        load_job(spec(HIDREAM, **fields))

    (problem,) = error.value.problems
    assert "width: 512x" in problem
    assert "would come out as" in problem
    assert "ask for that size; registry/image_models.yaml)" in problem


def test_sizes_that_come_out_as_they_are_pass() -> None:
    load_job(spec(HIDREAM))
    load_job(spec(HIDREAM, params={"width": 1360, "height": 768}))
    load_job(spec("black-forest-labs/FLUX.1-Kontext-dev", params={"width": 512, "height": 256}))


def test_rows_with_sizes_of_their_own_are_checked_too(tmp_path: Path) -> None:
    source = [{"prompt": "a fox", "width": 1024, "height": 1024}, {"prompt": "a cat", "width": 64, "height": 64}]
    with pytest.raises(SpecError) as error:
        build_plan(load_job(spec(HIDREAM, prompts={"source": source})), tmp_path)

    (problem,) = error.value.problems
    assert "prompts.source[1]: width and height: 64x64 would come out as 1024x1024" in problem


def test_a_mask_may_have_a_rule_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(gray(64, 64))
    row = {"prompt": "a fox", "image": str(tmp_path / "in.png")}

    def plan(*rows: dict[str, Any], **params: Any) -> None:
        build_plan(
            load_job(spec("Qwen/Qwen-Image-Edit", "image_to_image", prompts={"source": rows}, params=params)),
            tmp_path,
        )

    plan(row, width=512, height=512)
    plan({**row, "mask": row["image"]})
    with pytest.raises(SpecError, match="512x512 would come out as 1024x1024"):
        plan({**row, "mask": row["image"]}, width=512, height=512)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"scale": 0}, "0 is not an integer from 1"),
        ({}, "needs exactly one of"),
        ({"scale": 4, "area": 9}, "needs exactly one of"),
        ({"area": "large"}, "is not an integer from 1"),
        ({"sizes": [[1, 2, 3]]}, "a list of 3 is not a list"),
        ({"scael": 4}, "unknown field"),
        (4, "4 is not a mapping"),
    ],
)
def test_a_wrong_rule_is_named_with_its_place(rule: Any, said: str) -> None:
    needs = {"output_size": {"text_to_image": rule}}
    card = {"id": "a/b", "license": "mit", "tasks": {"text_to_image": {}}, "backends": {"diffusers": needs}}

    (problem, *_) = parse_cards(json.dumps(card), "x.yaml")[1]

    assert ": backends.diffusers.output_size.text_to_image" in problem
    assert said in problem
