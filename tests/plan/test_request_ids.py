"""Seeds and request ids: the same for ever, and different exactly where pixels may differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.plan.request_ids import canonical_json, derive_seed
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.runs.columns import REQUEST_ID_DIGITS
from tests.support.planning import Planner

PARAMS: dict[str, Any] = {"width": 32, "height": 32, "steps": 1, "guidance_scale": 1.0, "seed": 7}
JOB: dict[str, Any] = {"params": PARAMS}

GOLDEN_SEEDS = [1192744537, 1834539414, 1536109059]
GOLDEN_UNICODE_SEED = 103928224
GOLDEN_IDS = ["94793c9bd48646f4af7d58f58c", "7ebc3ecb73a7162ee8fd8cf3b4"]


def test_seeds_never_change() -> None:
    assert [derive_seed(7, "000000", sample) for sample in range(3)] == GOLDEN_SEEDS
    assert derive_seed(0, "a fox – 狐", 0) == GOLDEN_UNICODE_SEED


@given(
    base=st.integers(0, 2**63 - 1), prompt_id=st.text(st.characters(codec="utf-8"), max_size=20), n=st.integers(0, 999)
)
def test_seeds_fit_31_bits(base: int, prompt_id: str, n: int) -> None:
    assert 0 <= derive_seed(base, prompt_id, n) < 2**31


def test_samples_and_prompts_have_seeds_of_their_own() -> None:
    seeds = {derive_seed(base, f"{prompt:06d}", n) for base in range(5) for prompt in range(20) for n in range(10)}

    assert len(seeds) == 1000


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": {"d": None, "c": "é"}}) == '{"a":{"c":"\\u00e9","d":null},"b":1}'


def test_request_ids_never_change(planner: Planner) -> None:
    plan = planner.build(["a fox", "a cat"], **JOB)

    assert plan.column("request_id") == GOLDEN_IDS
    assert all(len(id_) == REQUEST_ID_DIGITS for id_ in plan.column("request_id"))


@pytest.mark.parametrize(
    "change",
    [
        {"params": {**PARAMS, "width": 64}},
        {"params": {**PARAMS, "seed": 8}},
        {"params": {**PARAMS, "steps": 2}},
        {"params": {**PARAMS, "negative_prompt": "blurry"}},
        {"params": {**PARAMS, "extra": {"x": 1}}},
        {"task": "text_to_video"},
        {"model": "avbatch/shapes64", "backend": {"kind": "diffusers"}, "params": {"seed": 7}},
        {"prompts": {"template": "{{ prompt }}!"}},
    ],
)
def test_what_changes_pixels_changes_every_id(planner: Planner, change: dict[str, Any]) -> None:
    before, after = planner.build(["a fox", "a cat"], **JOB), planner.build(["a fox", "a cat"], **{**JOB, **change})

    assert not {*before.column("request_id")} & {*after.column("request_id")}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"output": {"path": "elsewhere", "image_format": "webp"}},
        {"execution": {"batch_size": 1, "shard_size": 1, "executor": "ray"}},
        {"params": {**PARAMS, "guidance_scale": 1}},
    ],
    ids=["name", "output", "execution", "1 for 1.0"],
)
def test_what_does_not_change_pixels_changes_no_id(planner: Planner, change: dict[str, Any]) -> None:
    before, after = planner.build(["a fox", "a cat"], **JOB), planner.build(["a fox", "a cat"], **{**JOB, **change})

    assert before.column("request_id") == after.column("request_id")


def test_a_default_written_out_changes_no_id(planner: Planner) -> None:
    default = default_params(load_cards()["avbatch/procedural"], "text_to_image")

    assert planner.build(["a"], params=default).column("request_id") == planner.build(["a"]).column("request_id")


def test_a_prompt_keeps_its_ids_when_others_join(planner: Planner) -> None:
    one, two = planner.build(["a fox"], **JOB), planner.build(["a fox", "a cat"], **JOB)

    assert one.column("request_id") == two.column("request_id")[:1]
