"""The packaged cards are consistent, and name pipelines and arguments that Diffusers has."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from abstractvision_batch.registry.card_file import parse_cards
from abstractvision_batch.registry.card_schema import CARD_KEYS, DIFFUSERS_KEYS, RULE_KEYS
from abstractvision_batch.registry.cards import ModelCard, load_cards, packaged_folder
from abstractvision_batch.types import TASKS
from training.shapes64.grammar import grammar_words

CARD_FILES = sorted(path.name for path in packaged_folder().glob("*.yaml"))
CARDS = load_cards()

#: How a Diffusers pipeline names what a card names otherwise; None is never an argument of the pipeline.
PIPELINE_NAMES = {
    "steps": "num_inference_steps",
    "mask": "mask_image",
    "reference_image": "image",
    "seed": None,
    "fps": None,
    "angles": None,
}


@pytest.mark.parametrize("name", CARD_FILES)
def test_a_packaged_file_passes_every_check_of_a_users_file(name: str) -> None:
    text = (packaged_folder() / name).read_bytes()

    cards, problems = parse_cards(text, name)

    assert problems == []
    assert cards


def test_no_two_packaged_files_have_a_card_of_the_same_id() -> None:
    ids = [card.id for name in CARD_FILES for card in parse_cards((packaged_folder() / name).read_bytes(), name)[0]]

    assert sorted(ids) == sorted(CARDS)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.id)
def test_a_card_names_its_source_and_says_why_when_nothing_can_run_a_task(card: ModelCard) -> None:
    assert card.sources
    assert (all(card.backends_for(task) for task in card.tasks) and card.tasks) or card.notes
    if card.provider == "huggingface":
        assert any(source.startswith("https://huggingface.co/") for source in card.sources)


def test_the_procedural_card_has_all_five_tasks() -> None:
    assert set(CARDS["avbatch/procedural"].tasks) == set(TASKS)
    assert all(CARDS["avbatch/procedural"].backends_for(task) == ("procedural",) for task in TASKS)


def test_the_embedded_models_card_has_the_words_that_it_was_trained_on() -> None:
    card = CARDS["avbatch/shapes64"]

    assert set(card.vocabulary) == set(grammar_words())
    assert card.unknown_words(card.example_prompt) == []
    assert card.unknown_words("A red fox in the snow, a FOX!") == ["fox", "in", "snow"]
    assert CARDS["avbatch/procedural"].unknown_words("a fox") == []
    assert ModelCard.from_json(card.to_json()) == card


def test_the_embedded_model_makes_64_pixel_images_from_text_and_images() -> None:
    card = CARDS["avbatch/shapes64"]

    assert set(card.tasks) == {"text_to_image", "image_to_image"}
    assert all(card.tasks[task].params[side].const == 64 for task in card.tasks for side in ("width", "height"))
    assert "mask" in card.tasks["image_to_image"].params


def test_a_new_process_loads_every_card_in_under_a_quarter_of_a_second() -> None:
    """20 ms on an idle core of 2026; the bound leaves room for a loaded one and excludes the imports."""
    code = (
        "import time; from abstractvision_batch.registry.cards import load_cards; t = time.process_time();"
        "load_cards(); print(time.process_time() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 0.25


@pytest.mark.model
@pytest.mark.parametrize("card", [c for c in CARDS.values() if "diffusers" in c.backends], ids=lambda card: card.id)
def test_diffusers_has_the_pipelines_of_a_card_and_they_take_its_parameters(card: ModelCard) -> None:
    diffusers = pytest.importorskip("diffusers")
    needs = card.backends["diffusers"]
    for name, class_name in needs["pipelines"].items():
        arguments = inspect.signature(getattr(diffusers, class_name).__call__).parameters
        task = "image_to_image" if name == "inpaint" else name
        for param, rule in card.tasks[task].params.items():
            theirs = needs.get("rename", {}).get(param, PIPELINE_NAMES.get(param, param))
            if theirs is None or not rule.supported or (param == "mask" and name != "inpaint"):
                continue
            if task == "image_to_image" and param in ("width", "height"):
                continue  # where the pipeline has no such argument, the input image is resized
            assert theirs in arguments, f"{class_name} has no argument {theirs}"


def test_the_card_in_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs/model-cards.md").read_text()
    (example,) = [block for block in page.split("```yaml\n")[1:] if block.startswith("id:")]

    cards, problems = parse_cards(example.split("```")[0].encode(), "docs")

    assert problems == []
    assert cards[0].backends_for("image_to_image") == ("diffusers",)
    assert all(f"`{key}`" in page for key in (*CARD_KEYS, *RULE_KEYS, *DIFFUSERS_KEYS) if key != "supported")
