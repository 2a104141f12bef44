"""Tiny Diffusers models, saved once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sdcpp_models import write_models
from tests.support.tiny_models import (
    make_flux,
    make_qwen_image,
    make_sd,
    make_sdxl,
    make_svd,
    make_wan,
    make_wan_image_to_video,
    save,
    save_adapter,
)


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion: VAE factor 8, classifier-free guidance, every image task."""
    return save(make_sd, tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="session")
def tiny_sd_lora(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of Stable Diffusion's UNet."""
    from diffusers import StableDiffusionPipeline

    return save_adapter(StableDiffusionPipeline, tiny_sd, tmp_path_factory.mktemp("models") / "lora", "unet")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion XL: two text encoders."""
    return save(make_sdxl, tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flux: a transformer, packed latents, sizes in multiples of 16, distilled guidance."""
    return save(make_flux, tmp_path_factory.mktemp("models") / "flux")


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan text-to-video: frames in multiples of 4 plus 1."""
    return save(make_wan, tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture(scope="session")
def tiny_wan_image_to_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan 2.2 image-to-video: the image conditions through the VAE."""
    return save(make_wan_image_to_video, tmp_path_factory.mktemp("models") / "wan-i2v")


@pytest.fixture(scope="session")
def tiny_qwen_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen-Image: classifier-free guidance called true_cfg_scale, which wants a negative prompt."""
    return save(make_qwen_image, tmp_path_factory.mktemp("models") / "qwen-image")


@pytest.fixture(scope="session")
def tiny_svd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Video Diffusion: an image and no prompt, and fps is what the motion is conditioned on."""
    return save(make_svd, tmp_path_factory.mktemp("models") / "svd")


@pytest.fixture(scope="session")
def sdcpp_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that stable-diffusion.cpp reads: a tiny OVIS-Image, its autoencoder, a LoRA."""
    return write_models(tmp_path_factory.mktemp("models"))
