"""Checkpoints, card facts and other places where a Diffusers model's weights come from."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends import HuggingFaceDiffusersBackendConfig, HuggingFaceDiffusersVisionBackend
from abstractvision_batch.backends.huggingface_diffusers.config import LoraAdapter, config_from_fields
from abstractvision_batch.backends.huggingface_diffusers.fields import DiffusersBackendSpec
from abstractvision_batch.backends.table import create_backend
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.types import ImageEditRequest, VisionRequest
from tests.support.original_names import checkpoint_of
from tests.support.tiny_diffusers import gray, levels_apart, make_backend, metadata, text_request

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a host was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="module")
def weights(tiny_sd: Path) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline

    return checkpoint_of(StableDiffusionPipeline.from_pretrained(str(tiny_sd), local_files_only=True))


@pytest.fixture(scope="module")
def configuration(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder without a single weight."""
    folder = tmp_path_factory.mktemp("configuration")
    shutil.copytree(tiny_sd, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def checkpoint(weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("checkpoint") / "fox.safetensors"
    save_file(weights, file)
    return file


def test_a_checkpoint_gives_the_pixels_of_its_folder(tiny_sd: Path, checkpoint: Path, configuration: Path) -> None:
    edit = ImageEditRequest("a fox", image=gray(), steps=2, seed=1)
    with make_backend(tiny_sd) as folder, make_backend(checkpoint, config_path=str(configuration)) as file:
        expected = folder.generate_batch([text_request(), edit])
        items = file.generate_batch([text_request(), edit])

    assert [levels_apart(item, other) for item, other in zip(items, expected, strict=True)] == [0, 0]
    assert metadata(items[0])["model_path"] == str(checkpoint)


def test_a_pickled_checkpoint_loads_too(weights: dict[str, Any], configuration: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": weights}, tmp_path / "fox.ckpt")

    with make_backend(tmp_path / "fox.ckpt", config_path=str(configuration)) as backend:
        backend.preload()


def test_the_configuration_beside_a_checkpoint_is_found(checkpoint: Path, configuration: Path, tmp_path: Path) -> None:
    shutil.copytree(configuration, tmp_path, dirs_exist_ok=True)
    shutil.copy(checkpoint, tmp_path)

    with make_backend(tmp_path / checkpoint.name) as backend:
        backend.check_ready()
        backend.preload()


def test_the_configuration_in_the_hub_cache_is_found(checkpoint: Path, configuration: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--test--tiny"
    shutil.copytree(configuration, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    with make_backend(checkpoint, cache_dir=str(tmp_path)) as backend:
        backend.preload()


def test_a_file_with_the_denoiser_alone_takes_the_rest_from_the_folder(
    tiny_sd: Path, weights: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    denoiser = {name: value for name, value in weights.items() if name.startswith("model.")}
    save_file(denoiser, tmp_path / "unet.safetensors")

    with make_backend(tiny_sd) as folder, make_backend(tmp_path / "unet.safetensors", config_path=str(tiny_sd)) as file:
        assert levels_apart(file.generate_batch([text_request()])[0], folder.generate_batch([text_request()])[0]) == 0


def cut(checkpoint: Path, file: Path) -> None:
    file.write_bytes(checkpoint.read_bytes()[:100_000])


def drop_denoiser(checkpoint: Path, file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: value for name, value in load_file(checkpoint).items() if not name.startswith("model.")}, file)


def drop_text_encoder(checkpoint: Path, file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: value for name, value in load_file(checkpoint).items() if not name.startswith("cond")}, file)


def enlarge(checkpoint: Path, file: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    save_file(load_file(checkpoint) | {"model.diffusion_model.out.2.bias": torch.zeros(9)}, file)


def write_text(checkpoint: Path, file: Path) -> None:
    file.write_text("<html>404</html>")


@pytest.mark.parametrize("damage", [cut, drop_denoiser, drop_text_encoder, enlarge, write_text])
def test_a_wrong_or_truncated_checkpoint_is_a_missing_dependency(
    checkpoint: Path, configuration: Path, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    file = tmp_path / "fox.safetensors"
    damage(checkpoint, file)

    with pytest.raises(DependencyError, match=r"fox\.safetensors: its files cannot be loaded from .*fox\.safetensors"):
        make_backend(file, config_path=str(configuration)).preload()


def test_a_truncated_pickle_is_a_missing_dependency(configuration: Path, tmp_path: Path) -> None:
    (tmp_path / "fox.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")

    with pytest.raises(DependencyError, match="cannot be loaded"):
        make_backend(tmp_path / "fox.ckpt", config_path=str(configuration)).preload()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fox.gguf", {}, r"ends in \.safetensors or \.ckpt .*kind sdcpp reads GGUF"),
        ("none.safetensors", {}, "no such file or folder"),
        ("fox.safetensors", {}, r"avbatch fetch .*fox\.safetensors, which takes that of test/tiny; or give the folder"),
        ("fox.safetensors", {"config_path": "/no/such/folder"}, r"/no/such/folder: .* lacks model_index\.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "fox.gguf").write_bytes(b"GGUF")
    shutil.copy(checkpoint, tmp_path)

    with pytest.raises(DependencyError, match=message):
        make_backend(tmp_path / name, cache_dir=str(tmp_path), **settings).check_ready()


def test_a_checkpoint_is_not_quantised(checkpoint: Path, configuration: Path) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="quantization: not of a checkpoint"):
        make_backend(checkpoint, config_path=str(configuration), quantization="int8").preload()


# what a card says


def in_cache(cache: Path, repo_id: str, model: Path, subfolder: str = "") -> None:
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / "abc" / subfolder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("indexed", [True, False])
def test_a_component_that_the_repository_lacks_comes_from_where_the_card_says(
    tiny_sd: Path, tmp_path: Path, indexed: bool
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_sd, model)
    index = json.loads((model / "model_index.json").read_text())
    for name in ("text_encoder", "tokenizer"):
        shutil.move(model / name, tmp_path / name)
        if not indexed:
            del index[name]
    (model / "model_index.json").write_text(json.dumps(index))
    card = {"path": str(model), "components": {name: str(tmp_path / name) for name in ("text_encoder", "tokenizer")}}

    with (
        make_backend(tiny_sd) as whole,
        HuggingFaceDiffusersVisionBackend(config_from_fields({}, card_facts=card, model="test/tiny")) as parts,
    ):
        assert levels_apart(whole.generate_batch([text_request()])[0], parts.generate_batch([text_request()])[0]) == 0


def test_a_component_that_is_missing_is_named_with_the_command(tiny_sd: Path, tmp_path: Path) -> None:
    backend = make_backend(tiny_sd, components={"text_encoder": "meta/llama"}, cache_dir=str(tmp_path))

    with pytest.raises(DependencyError, match="avbatch fetch meta/llama"):
        backend.preload()


def test_a_pipeline_in_a_subfolder_of_its_repository_is_found(tiny_sd: Path, tmp_path: Path) -> None:
    in_cache(tmp_path, "someone/many", tiny_sd, "diffusers/small")
    config = HuggingFaceDiffusersBackendConfig("someone/many", subfolder="diffusers/small", cache_dir=str(tmp_path))

    with HuggingFaceDiffusersVisionBackend(config) as backend:
        (item,) = backend.generate_batch([text_request()])

    assert metadata(item)["revision"] == "abc"


@pytest.mark.slow
def test_each_task_has_its_repository_and_one_is_in_memory(tiny_sd: Path, tiny_sdxl: Path, tmp_path: Path) -> None:
    in_cache(tmp_path, "someone/text", tiny_sd)
    in_cache(tmp_path, "someone/image", tiny_sdxl)
    cards = tmp_path / "card.yaml"
    cards.write_text(
        "id: someone/model\n"
        "license: mit\n"
        "tasks: {}\n"
        "backends: {diffusers: {repo_ids: {text_to_image: someone/text, image_to_image: someone/image}}}\n"
    )
    card = load_cards([cards])["someone/model"]
    spec = DiffusersBackendSpec(cache_dir=str(tmp_path), device="cpu")
    backend = create_backend(spec, card=card, model=card.id)
    requests: list[VisionRequest] = [
        text_request(),
        ImageEditRequest("a fox", image=gray(), steps=4, seed=1),
        text_request(),
    ]

    with backend:
        backend.check_ready()
        backend.preload()
        items = [backend.generate_batch([request])[0] for request in requests]

    assert [metadata(item)["model_path"] for item in items] == ["someone/text", "someone/image", "someone/text"]
    assert levels_apart(items[0], items[2]) == 0


def test_none_of_several_repositories_is_an_error_that_names_one(tmp_path: Path) -> None:
    config = HuggingFaceDiffusersBackendConfig(
        "someone/model", repo_ids={"text_to_video": "someone/text"}, cache_dir=str(tmp_path)
    )

    with pytest.raises(DependencyError, match="avbatch fetch someone/text"):
        HuggingFaceDiffusersVisionBackend(config).check_ready()


def test_downloads_fetch_what_a_checkpoint_lacks_and_nothing_large(
    checkpoint: Path, configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str] | None, **settings: Any) -> None:
        asked.append((repo_id, allow_patterns))
        in_cache(tmp_path, repo_id, configuration)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with make_backend(checkpoint, cache_dir=str(tmp_path), allow_download=True) as backend:
        backend.preload()

    assert asked == [("test/tiny", ["*.json", "*.txt", "*.model"])]


# before a job starts


@pytest.mark.parametrize(
    "settings",
    [
        {"rapid_aio_repo": "someone/more"},
        {"components": {"vae": "someone/more"}},
        {"loras": (LoraAdapter("someone/more"),)},
        {"angles_lora": "someone/more", "pipelines": {"multi_view_image": "StableDiffusionImg2ImgPipeline"}},
    ],
)
def test_what_goes_with_a_model_is_missed_before_anything_is_loaded(
    tiny_sd: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(DependencyError, match="avbatch fetch someone/more"):
        make_backend(tiny_sd, cache_dir=str(tmp_path), **settings).check_ready()
