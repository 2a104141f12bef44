"""`avbatch models add`: a card to edit for a model that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.job.load import load_job
from abstractvision_batch.registry.cards import load_cards
from tests.support.tiny_models import make_sd, save

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_sd, tmp_path_factory.mktemp("models") / "my-finetune")


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["models", *words])


def test_the_card_runs_the_model_that_it_was_written_for(finetune: Path, tmp_path: Path) -> None:
    ended = call("add", str(finetune), "--output", str(tmp_path / "card.yaml"))

    assert ended.exit_code == 0, ended.output
    text = (tmp_path / "card.yaml").read_text()
    assert "    # of most of the weights\n    dtype: float32\n" in text
    assert "  # as the model's README has it" not in text.split("\n", 2)[2]
    card = load_cards([tmp_path / "card.yaml"])["my-finetune"]
    assert card.backends["diffusers"]["path"] == str(finetune)
    spec = {
        "name": "own",
        "model": "my-finetune",
        "prompts": {"source": ["a fox"]},
        "output": {"path": str(tmp_path / "run")},
        "registry": {"paths": ["card.yaml"]},
    }
    plain = load_job({**spec, "model": str(finetune), "registry": {}}, base_dir=tmp_path).card
    assert load_job(spec, base_dir=tmp_path).card.tasks == plain.tasks


def test_a_card_that_is_like_another_says_only_what_differs(finetune: Path, tmp_path: Path) -> None:
    like = "stabilityai/stable-diffusion-xl-base-1.0"

    ended = call("add", str(finetune), "--like", like, "--id", "acme/own")

    assert ended.exit_code == 0, ended.output
    written = yaml.safe_load(ended.stdout)
    assert written.keys() == {"id", "like", "backends"}
    assert (written["id"], written["like"]) == ("acme/own", like)


def test_what_is_there_is_not_overwritten_and_what_is_not_there_is_said(finetune: Path, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("mine")

    there = call("add", str(finetune), "--output", str(tmp_path / "card.yaml"))
    absent = call("add", "./no-such-folder")
    unknown = call("add", str(finetune), "--like", "nobody/nothing")

    assert (there.exit_code, absent.exit_code, unknown.exit_code) == (2, 3, 2)
    assert "is there already" in there.output
    assert "no such file or folder" in absent.output
    assert "no card has the id 'nobody/nothing'" in unknown.output
    assert (tmp_path / "card.yaml").read_text() == "mine"


def test_the_list_is_still_what_models_alone_prints(finetune: Path) -> None:
    ended, added = call("--json", "--backend", "procedural"), call("add", str(finetune), "--json")

    assert [model["id"] for model in json.loads(ended.stdout)["models"]] == ["avbatch/procedural"]
    assert json.loads(added.stdout)["card"]["id"] == "my-finetune"


def test_a_model_that_has_a_card_is_given_another_under_another_name_only() -> None:
    ended = call("add", "avbatch/shapes64")

    assert ended.exit_code == 2
    assert "avbatch/shapes64: has a card (registry/avbatch.yaml" in ended.output and "--id" in ended.output
