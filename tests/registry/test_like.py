"""Cards that are like another card, and ids that are aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.cards import Cards, load_cards

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
WAN = "Wan-AI/Wan2.2-I2V-A14B"


def load(tmp_path: Path, *cards: dict[str, Any]) -> Cards:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"cards": list(cards)}, sort_keys=False))
    return load_cards([tmp_path / "own.yaml"])


def problems_of(tmp_path: Path, *cards: dict[str, Any]) -> list[str]:
    with pytest.raises(SpecError) as error:
        load(tmp_path, *cards)
    return [line.removeprefix(f"{tmp_path}/") for line in error.value.problems]


def test_a_card_says_what_differs_from_the_one_that_it_is_like(tmp_path: Path) -> None:
    cards = load(
        tmp_path,
        {
            "id": "acme/xl",
            "like": SDXL,
            "license": "mit",
            "tasks": {
                "text_to_image": {"params": {"steps": {"default": 8}, "negative_prompt": {"supported": False}}},
                "image_to_image": None,
            },
            "backends": {"diffusers": {"batch_size": 2}},
        },
    )

    card, base = cards["acme/xl"], cards[SDXL]
    params, usual = card.tasks["text_to_image"].params, base.tasks["text_to_image"].params
    assert (card.id, card.license, list(card.tasks)) == ("acme/xl", "mit", ["text_to_image"])
    assert (params["steps"].default, params["steps"].max) == (8, usual["steps"].max)
    assert not params["negative_prompt"].supported
    assert params["width"] == usual["width"]
    assert card.backends["diffusers"] == {**base.backends["diffusers"], "batch_size": 2}
    assert card.origin == str(tmp_path / "own.yaml")


def test_it_has_its_own_weights_and_its_own_names(tmp_path: Path) -> None:
    """Else a finetune would be made of its base."""
    card = load(tmp_path, {"id": "acme/wan", "like": WAN})["acme/wan"]

    assert "repo_id" in load_cards()[WAN].backends["diffusers"]
    assert "repo_id" not in card.backends["diffusers"]
    assert not card.gated
    assert not card.aliases


def test_cards_may_be_like_one_another_in_any_order_and_file(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"id": "acme/b", "like": SDXL, "notes": "b"}))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"id": "acme/a", "like": "acme/b", "license": "mit"}))

    cards = load_cards([tmp_path])

    assert (cards["acme/a"].notes, cards["acme/a"].license, cards["acme/b"].license) == ("b", "mit", "openrail++")


def test_a_card_that_is_like_its_own_id_changes_parts_of_the_packaged_one(tmp_path: Path) -> None:
    card = load(tmp_path, {"id": WAN, "like": WAN, "notes": "slow"})[WAN]

    assert card.notes == "slow"
    assert card.backends == load_cards()[WAN].backends


def test_a_circle_and_an_unknown_card_are_named_with_their_places(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        {"id": "acme/a", "like": "acme/b"},
        {"id": "acme/b", "like": "acme/a"},
        {"id": "acme/c", "like": "acme/c"},
        {"id": "acme/d", "like": "stable-diffusion-xl-base"},
        {"id": "acme/e", "like": 5},
    )

    assert found == [
        "own.yaml:3:3: cards[0].like: leads back to itself (acme/a → acme/b → acme/a)",
        "own.yaml:5:3: cards[1].like: leads back to itself (acme/b → acme/a → acme/b)",
        "own.yaml:7:3: cards[2].like: is this card itself (name another)",
        f"own.yaml:9:3: cards[3].like: no card has the id 'stable-diffusion-xl-base' (did you mean {SDXL}?)",
        "own.yaml:11:3: cards[4].like: is not the id of a card",
    ]


def test_the_result_is_checked_as_every_card_is(tmp_path: Path) -> None:
    steps = {"text_to_image": {"params": {"steps": {"default": 0}}}}

    (found,) = problems_of(tmp_path, {"id": "acme/a", "like": SDXL, "tasks": steps})

    assert found.startswith("own.yaml:8:11: cards[0].tasks.text_to_image.params.steps.default: 0 is below the minimum")


def test_a_single_card_in_a_file_may_be_like_another(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("id: acme/a\nlike: nothing/at-all-xyzzy\n")

    with pytest.raises(SpecError, match=r"one\.yaml:2:1: like: no card has the id 'nothing/at-all-xyzzy'"):
        load_cards([tmp_path / "one.yaml"])


def test_an_alias_stands_for_its_model_in_a_spec(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump({"id": "new/name", "like": "avbatch/procedural", "aliases": ["old/name"]})
    )
    spec = {
        "name": "moved",
        "backend": {"kind": "procedural"},
        "prompts": {"source": ["a fox"]},
        "output": {"path": "out"},
        "registry": {"paths": ["own.yaml"]},
    }

    jobs = [load_job({**spec, "model": name}, base_dir=tmp_path) for name in ("old/name", "new/name")]

    assert [job.spec.model for job in jobs] == ["new/name", "new/name"]
    assert jobs[0].fingerprint("d") == jobs[1].fingerprint("d")
    registry = VisionModelCapabilitiesRegistry(paths=[tmp_path / "own.yaml"])
    assert registry.card("old/name").id == "new/name"
    assert registry.supports("old/name", "text_to_image")
    assert "old/name" not in registry.list_models()


def test_no_alias_of_a_packaged_card_is_the_name_of_another() -> None:
    cards = load_cards()
    aliases = [alias for card in cards.values() for alias in card.aliases]

    assert len(aliases) == len({*aliases} - cards.keys())
