"""The packaged cards are consistent, and name pipelines and arguments that Diffusers has."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from abstractvision_batch.registry.backend_facts import DiffusersFacts
from abstractvision_batch.registry.card_file import parse_cards
from abstractvision_batch.registry.cards import load_cards, packaged_folder
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.param_rule import ParamRule
from abstractvision_batch.types import TASKS, Task
from training.shapes64.grammar import grammar_words

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


def test_a_card_that_is_asked_for_alone_is_the_one_of_its_file_and_no_two_have_the_same_name() -> None:
    files = sorted(packaged_folder().glob("*.yaml"))
    read = [parse_cards(path.read_text("utf-8"), f"registry/{path.name}") for path in files]
    cards = [card for found, _ in read for card in found]

    assert [problem for _, problems in read for problem in problems] == []
    assert sorted(card.id for card in cards) == list(CARDS)
    assert [card.id for card in cards if CARDS[card.id] != card] == []
    assert [card.id for card in cards for alias in card.aliases if CARDS.find(alias) != card] == []


def test_a_card_names_its_source_and_says_why_when_nothing_can_run_a_task() -> None:
    def runs(card: ModelCard) -> bool:
        return bool(card.tasks) and all(card.backends_for(task) for task in card.tasks)

    def is_of_the_hub(card: ModelCard) -> bool:
        return any(source.startswith("https://huggingface.co/") for source in card.sources)

    assert [card.id for card in CARDS.values() if not card.sources] == []
    assert [card.id for card in CARDS.values() if not (runs(card) or card.notes)] == []
    assert [card.id for card in CARDS.values() if card.provider == "huggingface" and not is_of_the_hub(card)] == []


@pytest.mark.parametrize(
    ("id", "moved_from"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        ("stable-diffusion-v1-5/stable-diffusion-inpainting", "runwayml/stable-diffusion-inpainting"),
        ("zai-org/CogVideoX-5b", "THUDM/CogVideoX-5b"),
        ("zai-org/CogView4-6B", "THUDM/CogView4-6B"),
    ],
)
def test_a_model_whose_repository_moved_is_known_by_both_ids(id: str, moved_from: str) -> None:
    found = CARDS.find(id)

    assert found is not None
    assert CARDS.find(moved_from) == found


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


def test_a_job_makes_no_card_but_its_models(tmp_path: Path) -> None:
    """Every process that reads a spec would wait for all of them."""
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "{name: one, model: runwayml/stable-diffusion-v1-5, backend: {kind: diffusers},"
        " prompts: {source: [a fox]}, output: {path: out}}"
    )
    code = (
        "import gc, sys; from abstractvision_batch.job.load import load_job;"
        "from abstractvision_batch.registry.model_card import ModelCard; job = load_job(sys.argv[1]);"
        "print({card.id for card in gc.get_objects() if isinstance(card, ModelCard)})"
    )
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str({"runwayml/stable-diffusion-v1-5"})


@pytest.mark.slow  # the first import of diffusers
@pytest.mark.model
def test_diffusers_has_the_pipelines_of_the_cards_and_they_take_their_parameters() -> None:
    diffusers = pytest.importorskip("diffusers")

    assert list(_what_diffusers_lacks(diffusers)) == []


def _what_diffusers_lacks(diffusers: object) -> Iterator[str]:
    for card in CARDS.values():
        facts = card.facts("diffusers")
        assert isinstance(facts, DiffusersFacts)
        for name, class_name in facts.pipelines.items():
            arguments = inspect.signature(getattr(diffusers, class_name).__call__).parameters
            task: Task = "image_to_image" if name == "inpaint" else name
            for param, rule in card.tasks[task].params.items():
                theirs = facts.rename.get(param, PIPELINE_NAMES.get(param, param))
                if theirs is None or not rule.supported or (param == "mask" and name != "inpaint"):
                    continue
                if task == "image_to_image" and param in ("width", "height"):
                    continue  # where the pipeline has no such argument, the input image is resized
                if theirs not in arguments:
                    yield f"{card.id}: {class_name} has no argument {theirs}"


def test_the_card_in_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs/model-cards.md").read_text()
    (example,) = [block for block in page.split("```yaml\n")[1:] if block.startswith("id:")]

    cards, problems = parse_cards(example.split("```")[0], "docs")

    assert problems == []
    assert cards[0].backends_for("image_to_image") == ("diffusers",)
    documented = {*ModelCard.model_fields, *ParamRule.model_fields, *DiffusersFacts.model_fields}
    assert all(f"`{key}`" in page for key in documented - {"supported", "origin"})
