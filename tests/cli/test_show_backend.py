"""`show-backend`: fields, extra parameters, schedulers and variables, without loading anything."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import abstractvision_batch as avb
from abstractvision_batch.backends.table import BACKENDS, create_backend, load_section_class
from abstractvision_batch.cli.app import app
from abstractvision_batch.registry.cards import load_cards

SHAPES64 = Path(avb.__file__).parent / "models" / "shapes64"


def show(*arguments: str) -> dict[str, Any]:
    ended = CliRunner().invoke(app, ["show-backend", *arguments, "--json"])
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("kind", [*BACKENDS, "stable-diffusion-cpp"])
def test_every_backend_shows_the_fields_of_its_section(kind: str) -> None:
    shown = show(kind)

    section = load_section_class(shown["kind"])
    assert [field["name"] for field in shown["fields"]] == list(section.model_fields)
    assert shown["of_model"] is None
    assert kind in CliRunner().invoke(app, ["show-backend", kind]).stdout or kind == "stable-diffusion-cpp"


def test_a_backend_shows_defaults_extras_and_variables() -> None:
    fields = {field["name"]: field for field in show("openai")["fields"]}
    assert (fields["base_url"]["required"], fields["retries"]["required"]) == (True, False)
    diffusers = show("diffusers")
    assert {field["name"]: field["default"] for field in diffusers["fields"]}["threads"] == 1
    assert {"scheduler", "loras"} <= {extra["name"] for extra in diffusers["extras"]}
    assert "ABSTRACTVISION_DIFFUSERS_DEVICE" in {variable["name"] for variable in diffusers["variables"]}
    assert {"name": "clip_skip", "of": "", "type": "int", "default": None, "required": False} in show("sdcpp")["extras"]


@pytest.mark.parametrize("model", ["avbatch/shapes64", str(SHAPES64)])
def test_a_model_shows_what_its_requests_may_say_and_the_schedulers_that_fit(model: str) -> None:
    found = show("diffusers", "--model", model)["of_model"]

    extras = {(extra["name"], extra["of"]): extra["default"] for extra in found["extras"]}
    assert extras["eta", "text_to_image"] == 0.0
    assert ("num_inference_steps", "text_to_image") not in extras and ("generator", "text_to_image") not in extras
    schedulers = {one["name"]: one for one in found["schedulers"]}
    assert [name for name, one in schedulers.items() if one["is_own"]] == ["DDIMScheduler"]
    multistep = schedulers["DPMSolverMultistepScheduler"]
    settings = {setting["name"]: setting for setting in multistep["settings"]}
    assert multistep["known_as"] == ["DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE"]
    assert (settings["use_karras_sigmas"]["type"], settings["use_karras_sigmas"]["default"]) == ("bool", False)
    assert settings["prediction_type"]["default"] == "v_prediction", "as the model has it, not the class"


def test_what_is_shown_passes_the_check() -> None:
    backend = create_backend(
        load_section_class("diffusers").model_validate({"kind": "diffusers"}),
        card=load_cards()["avbatch/shapes64"],
        model="avbatch/shapes64",
    )
    shown = avb.show_backend("diffusers", "avbatch/shapes64")
    assert shown.of_model is not None

    for extra in shown.of_model.extras:
        if extra.of == "text_to_image":
            assert backend.find_problems("text_to_image", {extra.name: extra.default}) == []
    for scheduler in shown.of_model.schedulers:
        assert backend.find_problems("text_to_image", {"scheduler": scheduler.name}) == []


def test_a_person_reads_what_a_scheduler_has_besides_the_model_s_own() -> None:
    text = CliRunner().invoke(app, ["show-backend", "diffusers", "--model", "avbatch/shapes64"]).stdout

    row = next(line for line in text.splitlines() if line.startswith("EulerDiscreteScheduler"))
    assert "use_karras_sigmas: false" in row and "beta_start" not in row
    assert any(line.startswith("DDIMScheduler (its own)") and "beta_start" in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["difusers"], 2, "backend difusers: unknown (did you mean diffusers?)"),
        (["diffusers", "--model", "no/such"], 3, "no/such: not in "),
        (["diffusers", "--model", "avbatch/shape64"], 3, "no card has this id (did you mean avbatch/shapes64?)"),
        (["diffusers", "--model", "gpt-image-2"], 2, "diffusers does not run gpt-image-2 (backends that do: openai"),
        (["diffusers", "--model", "./nowhere"], 3, "no such file or folder"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    arguments: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "abstractvision_batch", "show-backend", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_a_model_that_is_not_here_is_shown_as_far_as_its_card_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = show("diffusers", "--model", "black-forest-labs/FLUX.1-dev")["of_model"]

    assert "max_sequence_length" in {extra["name"] for extra in found["extras"]}
    assert found["schedulers"] == []
    assert found["note"].startswith("which schedulers fit is not known: black-forest-labs/FLUX.1-dev: not in ")


def test_it_takes_a_moment_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom abstractvision_batch.cli import main\n"
        "try:\n    main(['show-backend', 'diffusers', '--model', 'avbatch/shapes64'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'diffusers', 'transformers', 'ray', 'pyarrow'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 3  # below 1 on a machine at rest
