"""Switches of memory and speed: each acts, and those that say so leave the picture alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend
from abstractvision_batch.backends.huggingface_diffusers.config import (
    Offload,
    Quantization,
    TorchCompile,
    config_from_fields,
)
from abstractvision_batch.backends.huggingface_diffusers.fields import DiffusersBackendSpec
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, OptionalDependencyMissingError
from abstractvision_batch.types import GeneratedAsset
from tests.support.tiny_diffusers import levels_apart, make_backend, text_request

pytestmark = pytest.mark.model


def loaded(path: Path, **settings: Any) -> HuggingFaceDiffusersVisionBackend:
    backend = make_backend(path, **settings)
    backend.preload()
    return backend


def test_a_spec_offers_what_the_backend_has() -> None:
    fields = DiffusersBackendSpec.model_fields

    for name, kind in (("offload", Offload), ("quantization", Quantization), ("torch_compile", TorchCompile)):
        assert get_args(fields[name].annotation) == get_args(kind)


def test_every_field_of_a_spec_reaches_the_backend(tiny_sd: Path) -> None:
    spec = DiffusersBackendSpec(
        model_path=str(tiny_sd),
        config_path="config",
        rapid_aio_repo="rapid",
        offload="model",
        quantization="int8",
        torch_compile="max-autotune",
        attention_backend="flash",
        vae_tiling=True,
        scheduler="DDIMScheduler",
    )
    config = config_from_fields(spec.model_dump(exclude={"kind"}), card_facts={}, model="test/tiny")

    said = {name: getattr(config, name) for name in spec.model_fields_set - {"model_path"}}
    assert said == spec.model_dump(include=set(said))
    assert config.path == str(tiny_sd)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("switch", ["attention_slicing", "vae_slicing", "vae_tiling"])
def test_a_memory_switch_is_on_and_keeps_the_picture(tiny_sd: Path, switch: str) -> None:
    requests = [text_request(1), text_request(2)]
    with make_backend(tiny_sd) as plain, loaded(tiny_sd, **{switch: True}) as switched:
        pipeline = switched.loaded().base
        processors = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
        state = {
            "attention_slicing": processors == {"SlicedAttnProcessor"},
            "vae_slicing": pipeline.vae.use_slicing,
            "vae_tiling": pipeline.vae.use_tiling,
        }
        pairs = zip(plain.generate_batch(requests), switched.generate_batch(requests), strict=True)

        assert {name for name, on in state.items() if on} == {switch}
        assert max(levels_apart(one, other) for one, other in pairs) <= 2


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_needs_a_gpu(tiny_sd: Path, offload: str) -> None:
    with pytest.raises(CapabilityNotSupportedError, match=f"backend.offload: {offload} needs a GPU"):
        loaded(tiny_sd, offload=offload)


def test_a_scheduler_that_needs_a_package_names_it(tiny_sd: Path) -> None:
    if find_spec("torchsde") is not None:
        pytest.skip("torchsde is installed")

    with pytest.raises(OptionalDependencyMissingError, match=r"needs torchsde, .* \(pip install torchsde"):
        loaded(tiny_sd, scheduler="DPMSolverSDEScheduler")


# quantisation


@pytest.mark.parametrize(("scheme", "package"), [("int8", "torchao"), ("float8", "torchao"), ("nf4", "bitsandbytes")])
def test_quantisation_without_its_package_names_the_command(tiny_flux: Path, scheme: str, package: str) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")

    with pytest.raises(OptionalDependencyMissingError, match=rf"{scheme}: not installed: {package} \(pip install"):
        loaded(tiny_flux, quantization=scheme)


@pytest.mark.parametrize(("scheme", "package"), [("int8", "torchao"), ("float8", "torchao")])
def test_a_quantised_denoiser_is_smaller_and_still_draws(tiny_flux: Path, scheme: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with make_backend(tiny_flux) as plain, make_backend(tiny_flux, quantization=scheme) as quantised:
        (one,) = plain.generate_batch([text_request(steps=4)])
        (other,) = quantised.generate_batch([text_request(steps=4)])
        pipeline = quantised.loaded().base

        assert pipeline.transformer.is_quantized
        assert not getattr(pipeline.vae, "is_quantized", False)
    assert isinstance(other, GeneratedAsset)
    assert levels_apart(one, other) > 0


# compilation


@pytest.mark.slow
def test_the_denoiser_is_compiled_in_place_only_where_asked(tiny_flux: Path, tiny_sd: Path) -> None:
    with loaded(tiny_flux) as plain, loaded(tiny_flux, torch_compile="default") as compiled:
        assert plain.loaded().base.transformer._compiled_call_impl is None
        assert compiled.loaded().base.transformer._compiled_call_impl is not None
        assert compiled.loaded().base.vae._compiled_call_impl is None
    with loaded(tiny_sd, torch_compile="reduce-overhead") as compiled:
        assert compiled.loaded().base.unet._compiled_call_impl is not None


@pytest.mark.slow  # half a minute of C++ compilation
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_a_compiled_denoiser_draws_the_same_picture(tiny_flux: Path) -> None:
    with make_backend(tiny_flux) as plain, make_backend(tiny_flux, torch_compile="default") as compiled:
        (one,) = plain.generate_batch([text_request()])
        (other,) = compiled.generate_batch([text_request()])

    assert levels_apart(one, other) <= 2


# attention kernels


def test_the_attention_of_one_model_is_not_that_of_the_next(tiny_flux: Path) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    default = _AttentionBackendRegistry.get_active_backend()[0]
    with make_backend(tiny_flux) as plain, loaded(tiny_flux, attention_backend="_native_math") as chosen:
        processors = chosen.loaded().base.transformer.attn_processors.values()
        assert {processor._attention_backend.value for processor in processors} == {"_native_math"}
        (one,) = plain.generate_batch([text_request()])
        (other,) = chosen.generate_batch([text_request()])
        processors = plain.loaded().base.transformer.attn_processors.values()
        assert {processor._attention_backend for processor in processors} == {None}

    assert levels_apart(one, other) <= 1
    assert _AttentionBackendRegistry.get_active_backend()[0] == default


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("flesh", CapabilityNotSupportedError, "flesh is not one of .*flash"),
        ("flash", DependencyError, "attention_backend: .*flash-attn"),
        ("flash_hub", DependencyError, "fetches its kernels"),
    ],
)
def test_attention_that_is_not_there_is_refused(
    tiny_flux: Path, name: str, error: type[Exception], message: str
) -> None:
    if name == "flash" and find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed")
    with pytest.raises(error, match=message):
        loaded(tiny_flux, attention_backend=name)


def test_a_denoiser_whose_attention_cannot_be_chosen_says_so(tiny_sd: Path) -> None:
    """Diffusers itself would ignore the choice."""
    with pytest.raises(CapabilityNotSupportedError, match="attention of UNet2DConditionModel cannot be chosen"):
        loaded(tiny_sd, attention_backend="native")
