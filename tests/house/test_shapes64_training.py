"""The training code of the embedded model: its data are what they claim, and what measures it is right about them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from training.shapes64.grammar import HELD_OUT, TRAINED, Combination, prompt_for


def test_the_classifier_is_right_about_drawn_scenes() -> None:
    from training.shapes64.classify import judge, shares
    from training.shapes64.evaluate import paint

    combinations = (HELD_OUT + TRAINED)[::3]

    verdicts = judge(paint(combinations), combinations)

    assert shares(verdicts)["right"] >= 0.98


@pytest.mark.parametrize("part", ["shape", "colour", "background", "size", "place"])
def test_the_classifier_notices_when_one_part_is_wrong(part: str) -> None:
    from training.shapes64.classify import judge, shares
    from training.shapes64.evaluate import change, paint

    asked = HELD_OUT[:64]

    verdicts = judge(paint(change(asked, [part])), asked)

    assert shares(verdicts)["right"] <= 0.02


def test_an_empty_image_shows_no_object() -> None:
    from training.shapes64.classify import classify, judge
    from training.shapes64.evaluate import paint

    combination = Combination("circle", "red", "white", "large", "")
    image = paint([combination])[0]
    image[:] = 245

    assert classify(image).regions == 0
    assert not judge([image], [combination])[0].right


def test_held_out_combinations_are_never_in_a_training_batch() -> None:
    from training.shapes64.render import draw_batch

    _, prompts, combinations = draw_batch(5000, random.Random(0), TRAINED)

    assert not set(combinations) & set(HELD_OUT)
    assert not set(prompts) & {prompt_for(combination) for combination in HELD_OUT}


def test_every_combination_is_either_trained_or_held_out() -> None:
    assert len(HELD_OUT) == 228
    assert len(set(HELD_OUT) | set(TRAINED)) == len(HELD_OUT) + len(TRAINED) == 1296


def test_the_held_out_prompts_do_not_change() -> None:
    """The shipped weights are measured on them, and weights that are continued must not have seen them."""
    prompts = "\n".join(prompt_for(combination) for combination in HELD_OUT)

    assert hashlib.sha256(prompts.encode()).hexdigest()[:16] == "131a45f03d5e707a"


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    import torch

    from training.shapes64.architecture import build_text_encoder, write_tokenizer
    from training.shapes64.train_unet import UnetTraining, load_average, train_unet

    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    build_text_encoder(tokenizer, seed=0).save_pretrained(tmp_path / "text_encoder")

    train_unet(UnetTraining(work=tmp_path, samples=8, batch=4))
    train_unet(UnetTraining(work=tmp_path, samples=12, batch=4))

    assert torch.load(tmp_path / "unet.pt")["step"] == 3
    assert load_average(tmp_path / "unet.pt").conv_out.weight.abs().sum() > 0
