"""Jobs of models that have no card: a folder, a checkpoint, a repository of the hub cache; checked by their files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job, load_job
from abstractvision_batch.verbs.run import run
from tests.support.tiny_diffusers import gray

pytestmark = pytest.mark.model

LoadSpec = Callable[..., Job]


@pytest.fixture
def load_spec(tmp_path: Path) -> LoadSpec:
    """Load a spec of one prompt that stands in `tmp_path`; keywords replace whole sections."""

    def load(**sections: Any) -> Job:
        spec = {
            "name": "own",
            "backend": {"kind": "diffusers", "device": "cpu"},
            "prompts": {"source": ["a fox", "a cat"]},
            "params": {"steps": 2, "width": 64, "height": 64, "seed": 1},
            "output": {"path": str(tmp_path / "run")},
            "execution": {"executor": "inline"},
            **sections,
        }
        return load_job(spec, base_dir=tmp_path)

    return load


def put_in_cache(model: Path, cache: Path, repo_id: str) -> Path:
    """Lay a model's folder out as the hub cache has it."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return shutil.copytree(model, repository / "snapshots" / commit)


def test_a_folder_runs_from_a_spec_and_is_recorded_under_its_own_name(
    tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec
) -> None:
    shutil.copytree(tiny_sd, tmp_path / "my-finetune")

    ended = run(load_spec(model="./my-finetune"))

    assert ended.exit_code == 0, ended
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["spec"]["model"] == record["card"]["id"] == "./my-finetune"
    assert record["card"]["origin"] == "derived from ./my-finetune"
    weights = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert len(weights["digest"]) == 64


def test_what_a_folder_takes_is_read_from_its_files(tiny_sd: Path, load_spec: LoadSpec) -> None:
    card = load_spec(model=str(tiny_sd)).card

    assert list(card.tasks) == ["text_to_image", "image_to_image"]
    assert card.backends["diffusers"]["pipelines"] == {
        "text_to_image": "StableDiffusionPipeline",
        "image_to_image": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
    }
    assert card.backends["diffusers"]["dtype"] == "float32"
    text = {name: rule.to_json() for name, rule in card.tasks["text_to_image"].params.items()}
    assert text["width"] == {
        "required": False, "type": "int", "default": 64, "min": 8, "multiple_of": 8, "description": "pixels"
    }  # fmt: skip
    assert (text["steps"]["default"], text["guidance_scale"]["default"]) == (50, 7.5)
    assert "negative_prompt" in text
    edit = card.tasks["image_to_image"].params
    assert {"mask", "strength"} <= edit.keys()
    assert edit["strength"].default is None  # 0.8 without a mask, 1.0 with one


def test_a_wrong_size_is_found_before_anything_is_loaded(tiny_sd: Path, load_spec: LoadSpec) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(model=str(tiny_sd), params={"width": 60, "height": 64, "strength": 0.5})

    assert (
        "params.width: 60 is not a multiple of 8 (allowed: multiples of 8, at least 8; nearest: 56, 64; derived from "
        in str(error.value)
    )
    assert "params.strength: this model's card has no parameter strength for text_to_image" in str(error.value)


def test_a_video_folder_says_its_frames(tiny_wan: Path, load_spec: LoadSpec) -> None:
    card = load_spec(model=str(tiny_wan), task="text_to_video", params={"num_frames": 5, "seed": 1}).card

    assert list(card.tasks) == ["text_to_video"]
    frames = card.tasks["text_to_video"].params["num_frames"]
    assert (frames.multiple_of, frames.remainder, frames.default) == (4, 1, 81)
    assert card.tasks["text_to_video"].params["width"].multiple_of == 16
    with pytest.raises(SpecError, match="num_frames: 6 is not a multiple of 4 plus 1"):
        load_spec(model=str(tiny_wan), task="text_to_video", params={"num_frames": 6, "seed": 1})


def test_guidance_is_the_one_that_the_model_means(tiny_qwen_image: Path, tiny_flux: Path, load_spec: LoadSpec) -> None:
    qwen, flux = (
        load_spec(model=str(path)).card.tasks["text_to_image"].params for path in (tiny_qwen_image, tiny_flux)
    )

    assert (qwen["guidance_scale"].default, flux["guidance_scale"].default) == (4.0, 3.5)
    assert (qwen["width"].multiple_of, flux["width"].multiple_of) == (16, 16)


def test_a_repository_of_the_hub_cache_runs_by_its_id(tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec) -> None:
    put_in_cache(tiny_sd, tmp_path / "hub", "acme/landscapes")

    job = load_spec(model="acme/landscapes", backend={"kind": "diffusers", "cache_dir": str(tmp_path / "hub")})
    ended = run(job)

    assert ended.exit_code == 0
    assert job.card.provider == "huggingface"


def test_a_model_that_is_nowhere_is_an_error_that_says_how_to_get_it(tmp_path: Path, load_spec: LoadSpec) -> None:
    backend = {"kind": "diffusers", "cache_dir": str(tmp_path / "hub")}
    with pytest.raises(SpecError, match=r"model: no card has this id, and acme/none: .*avbatch fetch acme/none"):
        load_spec(model="acme/none", backend=backend)
    with pytest.raises(SpecError, match=r"model: no card has this id, and .*absent: no such file or folder"):
        load_spec(model="./absent", backend=backend)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("FLUX.1-dev", "black-forest-labs/FLUX.1-dev"),
        ("flux1-dev", "black-forest-labs/FLUX.1-dev"),
        ("someone/flux.1-DEV", "black-forest-labs/FLUX.1-dev"),
        ("stable-diffusion-xl", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_a_short_name_is_led_to_its_model(tmp_path: Path, load_spec: LoadSpec, word: str, meant: str) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(model=word, backend={"kind": "diffusers", "cache_dir": str(tmp_path / "hub")})

    assert f"did you mean {meant}?" in str(error.value)


def test_a_modular_model_is_said_to_be_one(tmp_path: Path, load_spec: LoadSpec) -> None:
    (tmp_path / "flux3").mkdir()
    (tmp_path / "flux3" / "modular_model_index.json").write_text("{}")

    with pytest.raises(SpecError, match=r"model: .*a modular pipeline"):
        load_spec(model="./flux3")


def test_a_checkpoint_next_to_its_configuration_runs(tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec) -> None:
    shutil.copytree(tiny_sd, tmp_path / "sd")
    write_checkpoint(tmp_path / "sd", tmp_path / "sd" / "mine.safetensors")

    job = load_spec(model="./sd/mine.safetensors")

    assert job.card.license == "unknown"
    assert list(job.card.tasks) == ["text_to_image", "image_to_image"]


def test_a_checkpoint_alone_finds_the_configuration_of_its_kind(
    tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec
) -> None:
    write_checkpoint(tiny_sd, tmp_path / "mine.safetensors")
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    backend = {"kind": "diffusers", "cache_dir": str(tmp_path / "hub")}
    with pytest.raises(SpecError, match=f"avbatch fetch .*mine.safetensors, which takes that of {base}"):
        load_spec(model="./mine.safetensors", backend=backend)
    put_in_cache(tiny_sd, tmp_path / "hub", base)

    card = load_spec(model="./mine.safetensors", backend=backend).card

    assert card.id == "./mine.safetensors"
    assert card.backends["diffusers"]["repo_id"] == base
    assert card.backends["diffusers"]["memory_bytes"] == (tmp_path / "mine.safetensors").stat().st_size


def test_a_gguf_file_is_for_the_other_backend(tmp_path: Path, load_spec: LoadSpec) -> None:
    (tmp_path / "flux-q4.gguf").write_bytes(b"GGUF")

    with pytest.raises(SpecError, match=r"model: .*backend.kind sdcpp reads GGUF"):
        load_spec(model="./flux-q4.gguf")


def test_a_file_for_stable_diffusion_cpp_needs_no_card_either(
    sdcpp_models: Path, tmp_path: Path, load_spec: LoadSpec
) -> None:
    shutil.copy(sdcpp_models / "ovis.safetensors", tmp_path / "mine.safetensors")

    card = load_spec(model="./mine.safetensors", backend={"kind": "sdcpp"}).card

    assert list(card.tasks) == ["text_to_image", "image_to_image"]
    with pytest.raises(SpecError, match=r"model: .*absent.gguf"):
        load_spec(model="./absent.gguf", backend={"kind": "sdcpp"})


def test_a_run_of_a_folder_is_resumed_from_elsewhere(
    tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path starts at the spec's folder, not at the current one, and its card is the run's."""
    shutil.copytree(tiny_sd, tmp_path / "mine")
    run(load_spec(model="./mine"))
    for part in (tmp_path / "run" / "manifest").iterdir():
        part.unlink()
    (tmp_path / "run" / "manifest.parquet").unlink()
    monkeypatch.chdir("/")

    assert run(load_spec(model="./mine")).generated == 2


def test_generate_takes_a_folder_as_its_model(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_sd, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a fox", "--model", "./mine", "--steps", "2", "--width", "64", "--height", "64", "-o", "f.png"]

    ended = CliRunner().invoke(app, words)

    assert ended.exit_code == 0, ended.output
    assert (tmp_path / "f.png").is_file()


def test_a_saved_class_that_edits_makes_pictures_from_text_too(
    tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec
) -> None:
    shutil.copytree(tiny_sd, tmp_path / "edits")
    index = json.loads((tmp_path / "edits" / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (tmp_path / "edits" / "model_index.json").write_text(json.dumps(index))

    job = load_spec(model="./edits")

    assert job.card.backends["diffusers"]["pipelines"]["text_to_image"] == "StableDiffusionPipeline"
    assert run(job).exit_code == 0


def test_an_edit_of_a_folder_runs_from_a_spec(tiny_sd: Path, tmp_path: Path, load_spec: LoadSpec) -> None:
    (tmp_path / "fox.png").write_bytes(gray())

    job = load_spec(
        model=str(tiny_sd),
        task="image_to_image",
        prompts={"source": [{"prompt": "a fox", "image": str(tmp_path / "fox.png")}]},
        params={"steps": 4, "strength": 0.5, "seed": 1},
    )

    assert run(job).exit_code == 0


def test_validating_a_folder_imports_neither_torch_nor_diffusers(tiny_sd: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        f"name: own\nmodel: {tiny_sd}\nbackend: {{kind: diffusers}}\nprompts: {{source: [a fox]}}\n"
        "output: {path: out}\nparams: {seed: 1}\n"
    )
    code = (
        "import sys\nfrom abstractvision_batch.job.load import load_job\n"
        f"print(load_job({str(tmp_path / 'spec.yaml')!r}).card.id)\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules or 'transformers' in sys.modules)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, f"{tiny_sd}\n"), ended.stderr


def write_checkpoint(folder: Path, file: Path) -> None:
    """Write names as a Stable Diffusion checkpoint has them, with no more weights than show what it is."""
    import numpy as np
    from safetensors.numpy import save_file

    names = ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight")
    save_file({name: np.zeros((4, 4, 3, 3), np.float16) for name in names}, file)
    assert folder.is_dir()
