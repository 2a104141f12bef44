"""Faults of the older library (AbstractVision 0.2 to 0.3) in its Diffusers backend: it fails each test of this file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.types import RAW_RGB_MIME_TYPE, GeneratedAsset, ImageEditRequest, VisionRequest
from tests.support.tiny_diffusers import gray, levels_apart, make_backend, metadata, pixels, text_request

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> Iterator[HuggingFaceDiffusersVisionBackend]:
    with make_backend(tiny_sd) as backend:
        yield backend


def with_lora(lora: Path, scale: float = 1.0) -> dict[str, Any]:
    return {"loras_json": [{"source": str(lora), "scale": scale}]}


def base_checksum(backend: HuggingFaceDiffusersVisionBackend) -> str:
    """A hash of every weight that is not an adapter's, under its name without PEFT's wrapping."""
    import torch

    digest = hashlib.sha256()
    for part, module in sorted(backend.loaded().base.components.items()):
        if isinstance(module, torch.nn.Module):
            weights = {name.replace(".base_layer", ""): value for name, value in module.state_dict().items()}
            for name in sorted(name for name in weights if "lora_" not in name):
                digest.update(f"{part}.{name}\n".encode() + weights[name].float().numpy().tobytes())
    return digest.hexdigest()


def change_weights(source: Path, folder: Path, part: str, values: dict[str, float]) -> Path:
    """Copy a model and fill some of one component's weights."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file(weights | {name: torch.full_like(weights[name], value) for name, value in values.items()}, file)
    return folder


# wrong results


def test_an_adapter_leaves_every_base_weight_as_it_was(tiny_sd: Path, tiny_sd_lora: Path) -> None:
    with make_backend(tiny_sd) as backend:
        before = backend.generate_batch([text_request()])
        checksum = base_checksum(backend)
        with_adapter = backend.generate_batch([text_request(extra=with_lora(tiny_sd_lora))])
        again = backend.generate_batch([text_request(extra=with_lora(tiny_sd_lora))])
        after = backend.generate_batch([text_request()])

        assert base_checksum(backend) == checksum
    assert levels_apart(before[0], after[0]) == 0
    assert levels_apart(before[0], with_adapter[0]) > 2
    assert levels_apart(with_adapter[0], again[0]) == 0, "adapters add up"
    assert "loras" not in metadata(after[0])


def test_an_adapter_of_scale_zero_does_nothing(tiny_sd: Path, tiny_sd_lora: Path) -> None:
    with make_backend(tiny_sd) as plain, make_backend(tiny_sd) as adapted:
        (base,) = plain.generate_batch([text_request()])
        (zero,) = adapted.generate_batch([text_request(extra=with_lora(tiny_sd_lora, 0))])
        (one,) = adapted.generate_batch([text_request(extra=with_lora(tiny_sd_lora, 1))])

    assert levels_apart(base, zero) == 0
    assert levels_apart(base, one) > 2


def test_the_float32_fallback_is_undone_to_the_bit(tiny_sd: Path, tmp_path: Path) -> None:
    """It also had the fallback on Apple's devices alone."""
    import torch

    folder = change_weights(tiny_sd, tmp_path / "large", "unet", {"conv_out.bias": 6e4})
    with make_backend(folder, torch_dtype="float16") as backend:
        backend.preload()
        checksum = base_checksum(backend)
        first = backend.generate_batch([text_request()])
        second = backend.generate_batch([text_request()])
        dtypes = {tensor.dtype for tensor in backend.loaded().base.unet.parameters()}

        assert base_checksum(backend) == checksum
    assert dtypes == {torch.float16}
    assert metadata(first[0])["retried_fp32"] is metadata(second[0])["retried_fp32"] is True
    assert levels_apart(first[0], second[0]) == 0


def test_a_picture_that_is_black_in_float32_too_is_a_picture(tiny_sd: Path, tmp_path: Path) -> None:
    black = {"decoder.conv_out.weight": 0.0, "decoder.conv_out.bias": -1.0}
    folder = change_weights(tiny_sd, tmp_path / "black", "vae", black)
    with make_backend(folder, torch_dtype="float16") as backend:
        (item,) = backend.generate_batch([text_request()])

    assert not pixels(item).any()
    assert metadata(item)["retried_fp32"] is True


@pytest.mark.parametrize("extra", [{"num_images_per_prompt": 3}, {"n": 3}])
def test_several_images_of_one_request_are_refused(
    sd: HuggingFaceDiffusersVisionBackend, extra: dict[str, int]
) -> None:
    (item,) = sd.generate_batch([text_request(extra=extra)])

    assert isinstance(item, GenerationError)
    assert f"extra.{next(iter(extra))}: unknown" in str(item)


def test_a_misspelt_extra_key_is_an_error(
    sd: HuggingFaceDiffusersVisionBackend,
) -> None:
    misspelt, good = sd.generate_batch([text_request(extra={"clip_skp": 1}), text_request()])

    assert isinstance(misspelt, GenerationError)
    assert "extra.clip_skp: unknown (did you mean clip_skip?)" in str(misspelt)
    assert isinstance(good, GeneratedAsset)


def test_an_adapter_that_does_not_fit_is_an_error(tiny_sd: Path, tiny_sd_lora: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_sd_lora / "pytorch_lora_weights.safetensors")
    save_file(
        {name.replace("unet.", "unet.other."): value for name, value in weights.items()}, tmp_path / "other.safetensors"
    )
    with make_backend(tiny_sd) as backend:
        (before,) = backend.generate_batch([text_request()])
        bad, good = backend.generate_batch(
            [text_request(extra=with_lora(tmp_path / "other.safetensors")), text_request()]
        )

    assert isinstance(bad, GenerationError)
    assert "lora" in str(bad)
    assert levels_apart(before, good) == 0


def test_staying_offline_changes_nothing_of_the_process(tiny_sd: Path, tmp_path: Path) -> None:
    from huggingface_hub import constants

    before = (dict(os.environ), constants.HF_HUB_OFFLINE)
    with make_backend(tiny_sd) as backend:
        backend.preload()
    with pytest.raises(DependencyError):
        HuggingFaceDiffusersVisionBackend(
            type(backend.config)("someone/absent", cache_dir=str(tmp_path), allow_download=False)
        ).preload()

    assert (dict(os.environ), constants.HF_HUB_OFFLINE) == before


# what it costs


def test_a_batch_takes_the_denoisers_steps_of_one_image(
    sd: HuggingFaceDiffusersVisionBackend,
) -> None:
    calls: list[int] = []
    hook = sd.loaded().base.unet.register_forward_hook(lambda *args: calls.append(1))
    try:
        items = sd.generate_batch([text_request(seed, steps=3) for seed in range(4)])
    finally:
        hook.remove()

    assert len(calls) == 3
    assert all(isinstance(item, GeneratedAsset) for item in items)


def test_weights_are_in_memory_once_for_all_tasks(tiny_sd: Path) -> None:
    import torch

    mask = gray()
    requests: list[VisionRequest] = [text_request()]
    requests += (ImageEditRequest("a", image=gray(), mask=m, steps=2, seed=1) for m in (None, mask))
    with make_backend(tiny_sd) as backend:
        for request in requests:
            assert isinstance(backend.generate_batch([request])[0], GeneratedAsset)
        model = backend.loaded()
        pipelines = [model.pipeline(kind) for kind in ("text_to_image", "image_to_image", "inpaint")]
        storages = {
            tensor.data_ptr()
            for pipeline in pipelines
            for module in pipeline.components.values()
            if isinstance(module, torch.nn.Module)
            for tensor in module.parameters()
        }
        own = [
            tensor.data_ptr()
            for module in model.base.components.values()
            if isinstance(module, torch.nn.Module)
            for tensor in module.parameters()
        ]

    assert len({type(pipeline).__name__ for pipeline in pipelines}) == 3
    assert storages == set(own)


def test_a_batch_answers_raw_pixels(
    sd: HuggingFaceDiffusersVisionBackend,
) -> None:
    (item,) = sd.generate_batch([text_request()])

    assert isinstance(item, GeneratedAsset)
    assert item.mime_type == RAW_RGB_MIME_TYPE
    assert np.array_equal(pixels(item), pixels(sd.generate_image(text_request())))


def test_a_missing_variant_is_an_error(tiny_sd: Path) -> None:
    with pytest.raises(DependencyError, match="fp16"):
        make_backend(tiny_sd, variant="fp16").preload()
