"""The shipped weights do what their card says, with nothing but stock Diffusers classes.

Bounds lie well below the measured figures and far above chance, so that another release of torch does not trip them.
"""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

import abstractvision_batch
from training.shapes64.grammar import HELD_OUT, grammar_words

if TYPE_CHECKING:
    from training.shapes64.evaluate import Evaluation

MODEL = Path(abstractvision_batch.__file__).parent / "models" / "shapes64"

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    import torch

    from training.shapes64.evaluate import Evaluation, Settings

    torch.set_num_threads(1)
    return Evaluation(MODEL, Settings())


@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_stock_pipelines_load_the_folder_without_a_network(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    loaded = getattr(diffusers, pipeline).from_pretrained(MODEL, local_files_only=True)

    assert loaded.unet.config.sample_size * loaded.vae_scale_factor == 64


def test_the_folder_holds_no_code_and_names_only_stock_classes() -> None:
    parts = json.loads((MODEL / "model_index.json").read_text(encoding="utf-8"))
    libraries = {value[0] for value in parts.values() if isinstance(value, list)}

    assert libraries == {"diffusers", "transformers", None}
    assert {path.suffix for path in MODEL.rglob("*") if path.is_file()} == {".json", ".txt", ".safetensors", ".md"}


def test_the_folder_stays_below_five_and_a_half_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 5_500_000


def test_each_word_of_the_grammar_is_one_token() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")

    tokens = {word: tokenizer.tokenize(word) for word in grammar_words()}

    assert tokens == {word: [f"{word}</w>"] for word in grammar_words()}


def test_the_vocabulary_is_exactly_the_one_built_from_the_grammar(tmp_path: Path) -> None:
    from training.shapes64.architecture import write_tokenizer

    write_tokenizer(tmp_path)

    for name in ("vocab.json", "merges.txt"):
        assert (MODEL / "tokenizer" / name).read_text() == (tmp_path / name).read_text()


def test_the_encoder_computes_the_defined_latent_of_any_image(evaluation: Evaluation) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    from training.shapes64.architecture import latents_of

    images = 2 * torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    vae = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True).vae

    with torch.no_grad():
        latents = vae.encode(images).latent_dist.sample()

    assert torch.allclose(latents, latents_of(images), atol=0.01)


@pytest.mark.slow
def test_most_held_out_prompts_come_out_right_in_every_part(evaluation: Evaluation) -> None:
    from training.shapes64.evaluate import measure_drawing

    figures, _ = measure_drawing(evaluation, HELD_OUT[:32])

    # By chance one image in 1296 would be right.
    assert figures["right"] >= 0.9


def test_image_to_image_changes_the_colour_and_keeps_what_the_prompt_leaves_open(evaluation: Evaluation) -> None:
    from training.shapes64.evaluate import measure_recolouring

    figures, _ = measure_recolouring(evaluation, HELD_OUT[:24])

    # Size and background are not in the prompt: without the image, one in six would have both right.
    assert figures["colour"] >= 0.85
    assert figures["right"] >= 0.6


def test_inpainting_draws_the_object_inside_the_mask_and_leaves_the_rest(evaluation: Evaluation) -> None:
    from training.shapes64.evaluate import measure_inpainting

    figures, _ = measure_inpainting(evaluation, HELD_OUT[:24])

    assert figures["right"] >= 0.9
    assert figures["change_outside"] <= 3.0


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(evaluation: Evaluation) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    def digest(seed: int) -> str:
        image = pipeline(
            "a large red circle on a white background",
            num_inference_steps=4,
            guidance_scale=2.5,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        return hashlib.sha256(image.tobytes()).hexdigest()

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    assert digest(7) == digest(7)
    assert digest(7) != digest(8)
