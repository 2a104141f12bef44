from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.registry.constraints import (
    check_param,
    check_params,
    default_params,
)
from abstractvision_batch.registry.model_card import ModelCard, TaskCard
from abstractvision_batch.registry.param_rule import ParamRule, ParamType


def make_card(**rules: ParamRule) -> ModelCard:
    task = TaskCard(inputs=("text",), outputs=("image",), params=dict(rules))
    return ModelCard(
        id="a/b",
        provider="p",
        license="mit",
        gated=False,
        tasks={"text_to_image": task},
        backends={},
        origin="registry/x.yaml",
    )


WIDTH = ParamRule(type="int", min=256, max=2048, multiple_of=16, default=1024)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (
            ParamRule(type="int", multiple_of=16),
            1000,
            "1000 is not a multiple of 16 (nearest: 992, 1008; registry/x.yaml)",
        ),
        (
            WIDTH,
            1000,
            "1000 is not a multiple of 16 (allowed: multiples of 16, 256 to 2048; nearest: 992, 1008; registry/x.yaml)",
        ),
        (
            WIDTH,
            5000,
            "5000 is above the maximum 2048 (allowed: multiples of 16, 256 to 2048; nearest: 2048; registry/x.yaml)",
        ),
        (
            ParamRule(type="int", multiple_of=4, remainder=1),
            80,
            "80 is not a multiple of 4 plus 1 (nearest: 77, 81; registry/x.yaml)",
        ),
        (
            ParamRule(type="images", max=2),
            [b"a", b"b", b"c"],
            "3 pictures (allowed: at most 2; registry/x.yaml)",
        ),
        (
            ParamRule(type="images", min=2),
            [b"a"],
            "1 picture (allowed: at least 2; registry/x.yaml)",
        ),
        (
            ParamRule(type="images"),
            b"a",
            "b'a' is not a list (write [a, b]; registry/x.yaml)",
        ),
        (
            ParamRule(type="int", min=1, max=4),
            50,
            "50 is above the maximum 4 (allowed: 1 to 4; nearest: 4; registry/x.yaml)",
        ),
        (
            ParamRule(type="number", min=0),
            -0.5,
            "-0.5 is below the minimum 0 (allowed: at least 0; nearest: 0; registry/x.yaml)",
        ),
        (ParamRule(type="number", const=0.0), 7.5, "7.5 is not allowed (only 0.0; registry/x.yaml)"),
        (
            ParamRule(type="string", enum=("480p", "720p")),
            "480",
            "'480' is not allowed (did you mean 480p? allowed: one of '480p', '720p'; registry/x.yaml)",
        ),
        (ParamRule(supported=False), 3.0, "this model ignores knob (leave it out; registry/x.yaml)"),
    ],
)
def test_a_message_has_the_value_what_is_allowed_what_is_near_and_the_card_file(
    rule: ParamRule, value: object, message: str
) -> None:
    assert check_param(make_card(knob=rule), "text_to_image", "knob", value) == message


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("int", (True, 3.0, "3", [3], 1.5), (3, -3)),
        ("number", (True, "1", float("nan"), float("inf")), (1, 1.0)),
        ("bool", (1, "true"), (True, False)),
        ("string", (1, True, ["a"]), ("a", "")),
        ("list", ("abc", 1), (["a"], ("a",))),
    ],
)
def test_types_are_told_apart_and_a_boolean_is_not_a_number(
    kind: ParamType, wrong: tuple[object, ...], right: tuple[object, ...]
) -> None:
    card = make_card(knob=ParamRule(type=kind))

    assert all(check_param(card, "text_to_image", "knob", value) for value in wrong)
    assert not any(check_param(card, "text_to_image", "knob", value) for value in right)


def test_a_constant_allows_the_equal_number_and_no_boolean() -> None:
    rule = ParamRule(const=1)

    assert rule.problem(1.0) is None
    assert rule.problem(True) is not None


def test_a_misspelt_parameter_gets_the_name_that_was_meant() -> None:
    problem = check_param(make_card(steps=ParamRule(type="int"), seed=ParamRule()), "text_to_image", "stpes", 3)

    expected = "this model's card has no parameter stpes for text_to_image (did you mean steps?; registry/x.yaml)"
    assert problem == expected


def test_an_undeclared_parameter_gets_the_list_of_declared_ones() -> None:
    problem = check_param(make_card(steps=ParamRule(), seed=ParamRule()), "text_to_image", "strength", 0.5)

    assert problem is not None
    assert "it has: steps, seed" in problem


def test_a_seed_is_taken_by_every_model_and_fits_63_bits() -> None:
    card = make_card()

    assert check_param(card, "text_to_image", "seed", 2**63 - 1) is None
    assert "above the maximum" in str(check_param(card, "text_to_image", "seed", 2**63))
    assert "below the minimum" in str(check_param(card, "text_to_image", "seed", -1))


def test_a_huge_integer_is_reported_without_being_written_out() -> None:
    problem = check_param(make_card(width=WIDTH), "text_to_image", "width", 10**10_000)

    assert problem is not None
    assert "integer of 33220 bits" in problem
    assert len(problem) < 200


def test_an_unknown_task_is_reported_once_with_those_there_are() -> None:
    assert check_params(make_card(), "text_to_video", {"steps": 1, "width": 2}) == [
        ("task", "a/b has no task text_to_video (it has: text_to_image; registry/x.yaml)")
    ]


def test_all_wrong_values_are_reported_together() -> None:
    card = make_card(width=WIDTH, steps=ParamRule(type="int", max=4))

    assert [name for name, _ in check_params(card, "text_to_image", {"width": 7, "steps": 9, "seed": 1})] == [
        "width",
        "steps",
    ]


def test_a_value_of_none_is_not_given() -> None:
    assert check_params(make_card(width=WIDTH), "text_to_image", {"width": None}) == []


def test_a_required_parameter_without_default_is_missed() -> None:
    card = make_card(width=ParamRule(required=True), height=ParamRule(required=True, default=64))

    assert check_params(card, "text_to_image", {}) == [
        ("width", "this model needs width for text_to_image (registry/x.yaml)")
    ]


def test_inputs_are_judged_only_when_the_caller_says_which_there_are() -> None:
    card = make_card(prompt=ParamRule(required=True), mask=ParamRule(required=True))

    assert check_params(card, "text_to_image", {}) == []
    assert [name for name, _ in check_params(card, "text_to_image", {}, inputs=("prompt",))] == ["mask"]
    assert check_params(card, "text_to_image", {}, inputs=("prompt", "mask")) == []


def test_an_input_that_the_model_does_not_take_is_an_error() -> None:
    problems = check_params(make_card(prompt=ParamRule(required=True)), "text_to_image", {}, inputs=("prompt", "image"))

    assert problems == [("image", "this model takes no image for text_to_image (leave it out; registry/x.yaml)")]


def test_defaults_are_constants_first_and_leave_out_what_is_not_supported() -> None:
    card = make_card(
        steps=ParamRule(default=4),
        width=ParamRule(const=720),
        guidance_scale=ParamRule(default=0.0, const=0.0),
        strength=ParamRule(supported=False),
        height=ParamRule(),
    )

    assert default_params(card, "text_to_image") == {"steps": 4, "width": 720, "guidance_scale": 0.0}


@given(
    low=st.integers(1, 500),
    span=st.integers(0, 3000),
    step=st.integers(1, 64),
    remainder=st.integers(0, 63),
    value=st.integers(-100, 5000),
)
def test_nearest_values_are_always_allowed_and_no_allowed_value_is_nearer(
    low: int, span: int, step: int, remainder: int, value: int
) -> None:
    rule = ParamRule(type="int", min=low, max=low + span, multiple_of=step, remainder=remainder % step)

    near = rule.nearest_valid(value)

    allowed = [v for v in range(low, low + span + 1) if rule.problem(v) is None]
    assert set(near) <= set(allowed)
    assert bool(near) == bool(allowed)
    if allowed:
        assert min(abs(v - value) for v in near) == min(abs(v - value) for v in allowed)
