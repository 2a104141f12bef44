"""rapid_aio_repo: another transformer for one request, and the model's own afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.types import GeneratedAsset, ImageEditRequest
from tests.support.tiny_diffusers import gray, levels_apart, make_backend, metadata, text_request
from tests.support.tiny_models import save_adapter

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def rapid(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with another transformer of the same shape."""
    import torch
    from diffusers import FluxTransformer2DModel

    folder = tmp_path_factory.mktemp("rapid")
    torch.manual_seed(9)
    config = FluxTransformer2DModel.load_config(str(tiny_flux), subfolder="transformer")
    FluxTransformer2DModel.from_config(config).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def flux_lora(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import FluxPipeline

    return save_adapter(FluxPipeline, tiny_flux, tmp_path_factory.mktemp("lora"), "transformer")


def weights_of(backend: HuggingFaceDiffusersVisionBackend) -> dict[str, torch.Tensor]:
    transformer = backend.loaded().base.transformer
    return {name: value.clone() for name, value in transformer.state_dict().items()}


def test_a_request_with_another_transformer_leaves_the_models_own_untouched(tiny_flux: Path, rapid: Path) -> None:
    import torch

    swapped = text_request(extra={"rapid_aio_repo": str(rapid)})
    edit = ImageEditRequest("a fox", image=gray(), steps=4, seed=1)
    with make_backend(tiny_flux) as backend:
        before = backend.generate_batch([text_request(), edit])
        weights = weights_of(backend)
        (other,) = backend.generate_batch([swapped])
        after = backend.generate_batch([text_request(), edit])
        (other_again,) = backend.generate_batch([swapped])
        (last,) = backend.generate_batch([text_request()])
        kept = weights_of(backend)

    assert [levels_apart(one, two) for one, two in zip(before, after, strict=True)] == [0, 0]
    assert levels_apart(before[0], last) == 0
    assert levels_apart(other, other_again) == 0
    assert levels_apart(before[0], other) > 2
    assert all(torch.equal(kept[name], value) for name, value in weights.items())
    assert metadata(other)["rapid_aio_repo"] == str(rapid)
    assert "rapid_aio_repo" not in metadata(last)


def test_another_transformer_acts_on_every_kind_of_pipeline_and_is_loaded_once(
    tiny_flux: Path, rapid: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "rapid"
    shutil.copytree(rapid, repository)
    edit = ImageEditRequest("a fox", image=gray(), steps=4, seed=1)
    swapped = ImageEditRequest("a fox", image=gray(), steps=4, seed=1, extra={"rapid_aio_repo": str(repository)})
    with make_backend(tiny_flux) as backend:
        own, other = backend.generate_batch([edit, swapped])
        shutil.rmtree(repository)
        (again,) = backend.generate_batch([swapped])

    assert levels_apart(own, other) > 0
    assert levels_apart(other, again) == 0


def test_requests_with_either_transformer_share_a_call_and_not_a_pass(tiny_flux: Path, rapid: Path) -> None:
    swapped = text_request(2, extra={"rapid_aio_repo": str(rapid)})
    with make_backend(tiny_flux) as backend:
        items = backend.generate_batch([text_request(1), swapped, text_request(3)])

    assert [metadata(item)["batch_size"] for item in items] == [2, 1, 2]


def test_the_backends_own_choice_holds_until_a_request_asks_for_the_models(tiny_flux: Path, rapid: Path) -> None:
    with make_backend(tiny_flux, rapid_aio_repo=str(rapid)) as configured, make_backend(tiny_flux) as plain:
        (swapped,) = configured.generate_batch([text_request()])
        (asked,) = plain.generate_batch([text_request(extra={"rapid_aio_repo": str(rapid)})])
        (own,) = configured.generate_batch([text_request(extra={"rapid_aio_repo": None})])
        (base,) = plain.generate_batch([text_request()])

    assert levels_apart(swapped, asked) == levels_apart(own, base) == 0


def test_adapters_go_with_the_transformer_that_they_were_loaded_into(
    tiny_flux: Path, rapid: Path, flux_lora: Path
) -> None:
    loras: list[dict[str, Any]] = [{"source": str(flux_lora)}]
    both: dict[str, Any] = {"loras_json": loras, "rapid_aio_repo": str(rapid)}
    with make_backend(tiny_flux) as backend, make_backend(tiny_flux) as fresh:
        (base,) = backend.generate_batch([text_request()])
        (adapted,) = backend.generate_batch([text_request(extra={"loras": loras})])
        (swapped,) = backend.generate_batch([text_request(extra={"rapid_aio_repo": str(rapid)})])
        (swapped_adapted,) = backend.generate_batch([text_request(extra=both)])
        (swapped_again,) = backend.generate_batch([text_request(extra={"rapid_aio_repo": str(rapid)})])
        (adapted_again,) = backend.generate_batch([text_request(extra={"loras": loras})])
        (after,) = backend.generate_batch([text_request()])
        (swapped_adapted_fresh,) = fresh.generate_batch([text_request(extra=both)])

    assert levels_apart(base, after) == levels_apart(swapped, swapped_again) == 0
    assert levels_apart(adapted, adapted_again) == levels_apart(swapped_adapted, swapped_adapted_fresh) == 0
    assert min(levels_apart(base, adapted), levels_apart(swapped, swapped_adapted)) > 2


def remove(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")


def cut(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [remove, cut])
def test_a_bad_transformer_fails_the_request_that_asked_for_it(
    tiny_flux: Path, rapid: Path, tmp_path: Path, damage: Any
) -> None:
    repository = tmp_path / "rapid"
    shutil.copytree(rapid, repository)
    damage(repository)
    with make_backend(tiny_flux) as backend:
        bad, good = backend.generate_batch([text_request(extra={"rapid_aio_repo": str(repository)}), text_request()])

    assert isinstance(bad, GenerationError)
    assert f"rapid_aio_repo {repository}: no transformer of test/tiny loads from" in str(bad)
    assert isinstance(good, GeneratedAsset)


def test_a_transformer_of_another_shape_is_refused(tiny_flux: Path, tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel

    config = FluxTransformer2DModel.load_config(str(tiny_flux), subfolder="transformer")
    FluxTransformer2DModel.from_config({**config, "in_channels": 32}).save_pretrained(tmp_path / "transformer")

    with (
        make_backend(tiny_flux, rapid_aio_repo=str(tmp_path)) as backend,
        pytest.raises(DependencyError, match="takes 32 channels, that of test/tiny 16"),
    ):
        backend.generate_batch([text_request()])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("source", ["", 3, True])
def test_what_names_no_repository_is_an_error(tiny_flux: Path, source: object) -> None:
    with make_backend(tiny_flux) as backend:
        (item,) = backend.generate_batch([text_request(extra={"rapid_aio_repo": source})])

    assert isinstance(item, GenerationError)
    assert str(item) == f"extra.rapid_aio_repo: {source!r} is not a folder or hub id"


def test_a_repository_that_was_not_downloaded_is_an_error_with_the_command(tiny_flux: Path, tmp_path: Path) -> None:
    with make_backend(tiny_flux, cache_dir=str(tmp_path)) as backend:
        (item,) = backend.generate_batch([text_request(extra={"rapid_aio_repo": "linoyts/Rapid"})])

    assert isinstance(item, GenerationError)
    assert "avbatch fetch linoyts/Rapid" in str(item)


def test_after_a_transformer_that_did_not_load_the_models_own_goes_on(
    tiny_flux: Path, rapid: Path, tmp_path: Path
) -> None:
    swapped = text_request(extra={"rapid_aio_repo": str(rapid)})
    absent = text_request(extra={"rapid_aio_repo": str(tmp_path / "absent")})
    with make_backend(tiny_flux) as backend:
        before = backend.generate_batch([text_request(), swapped])
        bad, *after = backend.generate_batch([absent, text_request(), swapped])

    assert isinstance(bad, GenerationError)
    assert [levels_apart(one, two) for one, two in zip(before, after, strict=True)] == [0, 0]
