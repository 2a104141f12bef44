"""A spec against its model's card."""

from __future__ import annotations

from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.check import check_spec
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.registry.model_card import ModelCard, TaskCard
from abstractvision_batch.registry.param_rule import ParamRule

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/shapes64",
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}


def _problems_of(**changes: object) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load_job({**GOOD, **changes})
    return tuple(line.removeprefix("<spec>: ") for line in caught.value.problems)


def test_a_good_spec_gives_its_card() -> None:
    loaded = load_job(
        {
            **GOOD,
            "params": {"width": 64, "seed": 3, "extra": {"eta": 0.5}},
            "matrix": {"steps": [10, 20]},
            "zip": {"guidance_scale": [2, 3], "seed": [1, 2]},
        }
    )

    assert loaded.card.id == "avbatch/shapes64"


def test_a_task_that_the_model_has_not_is_named_with_those_it_has() -> None:
    assert _problems_of(task="text_to_video") == (
        "task: avbatch/shapes64 has no task text_to_video "
        "(it has: text_to_image, image_to_image; registry/avbatch.yaml)",
    )


def test_a_backend_that_does_not_run_the_model_is_named_with_those_that_do() -> None:
    assert _problems_of(backend={"kind": "procedural"}) == (
        "backend.kind: procedural does not run text_to_image of avbatch/shapes64 "
        "(backends that do: diffusers; registry/avbatch.yaml)",
    )


def test_params_and_every_value_of_matrix_and_zip_are_checked_by_the_card() -> None:
    assert _problems_of(
        params={"guidance_scale": 12.5, "fps": 8},
        matrix={"steps": [20, 101], "width": [64, 65]},
        zip={"height": [64, 128]},
    ) == (
        "params.guidance_scale: 12.5 is above the maximum 10 (allowed: 0 to 10; nearest: 10; registry/avbatch.yaml)",
        "params.fps: this model's card has no parameter fps for text_to_image (it has: prompt, seed, negative_prompt, "
        "width, height, steps, guidance_scale; registry/avbatch.yaml)",
        "matrix.steps[1]: 101 is above the maximum 100 (allowed: 1 to 100; nearest: 100; registry/avbatch.yaml)",
        "matrix.width[1]: 65 is not allowed (only 64; registry/avbatch.yaml)",
        "zip.height[1]: 128 is not allowed (only 64; registry/avbatch.yaml)",
    )


def test_a_parameter_in_extra_that_has_a_field_of_its_own_is_sent_there() -> None:
    assert _problems_of(params={"extra": {"steps": 3, "num_inference_steps": 3, "num_images": 2, "eta": 1}}) == (
        "params.extra.steps: is no extra parameter (write params.steps)",
        "params.extra.num_inference_steps: is no extra parameter (write params.steps)",
    )


def test_an_unknown_name_in_matrix_or_zip_gets_a_suggestion() -> None:
    assert _problems_of(matrix={"step": [1], "cfg_scale": [2]}, zip={"extra": [1]}) == (
        "matrix.step: unknown parameter (did you mean steps?)",
        "matrix.cfg_scale: unknown parameter (did you mean guidance_scale?)",
        "zip.extra: unknown parameter (did you mean extra.NAME?)",
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"matrix": {"steps": []}}, "matrix.steps: is an empty list (give values, or remove it)"),
        ({"zip": {"steps": []}}, "zip.steps: is an empty list (give values, or remove it)"),
        (
            {"zip": {"steps": [1, 2], "seed": [1]}},
            "zip: lists are not equally long (steps has 2, seed has 1)",
        ),
        (
            {"matrix": {"steps": [1]}, "zip": {"steps": [2]}},
            "zip.steps: is in matrix too (a parameter varies in one of them)",
        ),
        (
            {"matrix": {"guidance_scale": [3, 3.0]}},
            "matrix.guidance_scale[1]: 3.0 is there twice (samples_per_prompt repeats a point)",
        ),
        (
            {"zip": {"steps": [1, 2, 1], "seed": [1, 1, 1]}},
            "zip.steps[2]: repeats the values of an earlier place (3 of 3)",
        ),
        (
            {"matrix": {"seed": [None]}},
            "matrix.seed[0]: is empty, not an integer from 0 to 9223372036854775807 (remove the line or give a value)",
        ),
        (
            {"matrix": {"seed": list(range(5000))}, "samples_per_prompt": 1_000_000},
            "samples_per_prompt: 5000 matrix points × 1000000 samples × 1 prompts or more are over the 2147483648 "
            "requests that one job may have",
        ),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(changes: dict[str, Any], problem: str) -> None:
    assert _problems_of(**changes) == (problem,)


def test_a_required_parameter_may_come_from_a_column_unless_none_can_feed_it() -> None:
    rules = {"num_frames": ParamRule(required=True)}
    task = TaskCard(inputs=("text",), outputs=("image",), params=rules)
    card = ModelCard(
        id="me/mine", license="mit", tasks={"text_to_image": task}, backends={"diffusers": {}}, origin="mine.yaml"
    )

    def problems(**prompts: object) -> list[str]:
        spec = JobSpec.model_validate({**GOOD, "model": "me/mine", "prompts": prompts})
        return [f"{path}: {said}" for path, said in check_spec(spec, {"me/mine": card}).problems]

    needed = ["('params', 'num_frames'): this model needs num_frames for text_to_image (mine.yaml)"]
    assert problems(source="prompts.csv") == []
    assert problems(source=[{"prompt": "a", "num_frames": 3}]) == []
    assert problems(source=["a fox"]) == needed
    assert problems(source="prompts.csv", fields={"num_frames": None}) == needed
