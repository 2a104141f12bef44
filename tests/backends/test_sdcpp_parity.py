"""Numeric parity: one random FLUX-shaped model through Diffusers and through stable-diffusion.cpp.

Sigmas, noise and text embeddings are the same on both sides: Euler, PyTorch's random numbers of a CPU, no T5 (both see
zeros), CLIP-L with its real shape, which the library fixes. The picture is 64 x 64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from abstractvision_batch.backends import StableDiffusionCppVisionBackend
from abstractvision_batch.media.images import Rgb, decode_image
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest
from tests.support.sdcpp_models import config_for

pytestmark = [pytest.mark.sdcpp, pytest.mark.model]

SIDE, STEPS, SEED = 64, 4, 42
SIGMAS = tuple(float(sigma) for sigma in np.linspace(1, 1 / STEPS, STEPS))
A_CAT = (49406, 320, 2368)  # "a cat" in CLIP's vocabulary
END = 49407


def randomise(model: Any, bias: float = 0.05) -> None:
    """Weights scaled by fan-in, so that a few layers neither fade nor explode."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            parameter.data.normal_(0, bias)
        parameter.requires_grad_(False)


def make_models() -> tuple[Any, Any, Any]:
    """Transformer, tiny autoencoder and CLIP-L, in float32."""
    import diffusers
    import transformers

    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=False,
        axes_dims_rope=(16, 56, 56),
    ).eval()
    autoencoder = diffusers.AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(64,) * 4,
        decoder_block_out_channels=(64,) * 4,
        num_encoder_blocks=(1, 3, 3, 3),
        num_decoder_blocks=(3, 3, 3, 1),
    ).eval()
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=END,
        )
    ).eval()
    randomise(transformer)
    randomise(autoencoder)
    last = autoencoder.decoder.layers[-1]
    last.weight.data.mul_(0.5)
    last.bias.data.fill_(0.5)  # mid-grey, so that few pixels clip and hide a difference
    return transformer, autoencoder, encoder


def original_names(state: dict[str, Any]) -> dict[str, Any]:
    """FLUX tensors as its authors name them: the library does not know the names of Diffusers."""
    import torch

    renamed: dict[str, Any] = {}

    def put(new: str, *old: str) -> None:
        for part in ("weight", "bias"):
            found = [state[f"{name}.{part}"] for name in old if f"{name}.{part}" in state]
            if found:
                renamed[f"model.diffusion_model.{new}.{part}"] = torch.cat(found)

    put("img_in", "x_embedder")
    put("txt_in", "context_embedder")
    put("final_layer.linear", "proj_out")
    for theirs, ours in (("time_in", "timestep_embedder"), ("vector_in", "text_embedder")):
        put(f"{theirs}.in_layer", f"time_text_embed.{ours}.linear_1")
        put(f"{theirs}.out_layer", f"time_text_embed.{ours}.linear_2")
    block, old = "double_blocks.0", "transformer_blocks.0"
    for side, norm, qkv, out, mlp in (
        ("img", "norm1", ("to_q", "to_k", "to_v"), "to_out.0", "ff"),
        ("txt", "norm1_context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context"),
    ):
        put(f"{block}.{side}_mod.lin", f"{old}.{norm}.linear")
        put(f"{block}.{side}_attn.qkv", *(f"{old}.attn.{name}" for name in qkv))
        put(f"{block}.{side}_attn.proj", f"{old}.attn.{out}")
        put(f"{block}.{side}_mlp.0", f"{old}.{mlp}.net.0.proj")
        put(f"{block}.{side}_mlp.2", f"{old}.{mlp}.net.2")
    single, olds = "single_blocks.0", "single_transformer_blocks.0"
    put(f"{single}.modulation.lin", f"{olds}.norm.linear")
    put(f"{single}.linear1", *(f"{olds}.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")))
    put(f"{single}.linear2", f"{olds}.proj_out")
    norms = {
        f"{block}.img_attn.norm.query_norm": f"{old}.attn.norm_q",
        f"{block}.img_attn.norm.key_norm": f"{old}.attn.norm_k",
        f"{block}.txt_attn.norm.query_norm": f"{old}.attn.norm_added_q",
        f"{block}.txt_attn.norm.key_norm": f"{old}.attn.norm_added_k",
        f"{single}.norm.query_norm": f"{olds}.attn.norm_q",
        f"{single}.norm.key_norm": f"{olds}.attn.norm_k",
    }
    for new, name in norms.items():
        renamed[f"model.diffusion_model.{new}.scale"] = state[f"{name}.weight"]
    for part in ("weight", "bias"):  # Diffusers keeps (scale, shift), the authors (shift, scale)
        scale, shift = state[f"norm_out.linear.{part}"].chunk(2)
        renamed[f"model.diffusion_model.final_layer.adaLN_modulation.1.{part}"] = torch.cat([shift, scale])
    return renamed


def save_models(transformer: Any, autoencoder: Any, encoder: Any, folder: Path) -> dict[str, str]:
    from safetensors.torch import save_file

    clip = {
        key if key.startswith("text_model.") else f"text_model.{key}": value
        for key, value in encoder.state_dict().items()
    }
    tensors = {
        "diffusion_model": original_names(transformer.state_dict()),
        "taesd": autoencoder.state_dict(),
        "clip_l": {key: value for key, value in clip.items() if "position_ids" not in key},
    }
    files = {name: str(folder / f"{name}.safetensors") for name in tensors}
    for name, state in tensors.items():
        save_file({key: value.contiguous() for key, value in state.items()}, files[name])
    return files


def draw_with_diffusers(transformer: Any, autoencoder: Any, encoder: Any) -> Rgb:
    import diffusers
    import torch

    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    tokens = torch.tensor([[*A_CAT, *[END] * (77 - len(A_CAT))]])
    noise = torch.randn((1, 16, SIDE // 8, SIDE // 8), generator=torch.Generator("cpu").manual_seed(SEED))
    with torch.no_grad():
        image = pipeline(
            prompt_embeds=torch.zeros(1, 256, 4096),
            pooled_prompt_embeds=encoder(tokens).pooler_output,
            height=SIDE,
            width=SIDE,
            num_inference_steps=STEPS,
            sigmas=list(SIGMAS),
            latents=pipeline._pack_latents(noise, 1, 16, SIDE // 8, SIDE // 8),
            guidance_scale=1.0,
            output_type="np",
        ).images[0]
    drawn: npt.NDArray[np.floating[Any]] = image
    return (drawn * 255).round().astype(np.uint8)


def difference(one: Rgb, other: Rgb) -> npt.NDArray[np.int_]:
    gap: npt.NDArray[np.int_] = np.abs(one.astype(int) - other.astype(int))
    return gap


@pytest.mark.slow
def test_flux_gives_the_pixels_of_diffusers(tmp_path: Path) -> None:
    """A study saw a difference of at most 1 and 95.5 % of the values identical."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    config = config_for("python", tmp_path, taesd=None, model=None)  # skips before the models are made
    torch.manual_seed(0)
    models = make_models()
    config = config_for("python", tmp_path, model=None, **save_models(*models, tmp_path))
    expected = draw_with_diffusers(*models)

    def request(prompt: str, seed: int) -> ImageGenerationRequest:
        sampling = {"sampler": "euler", "sigmas": [*SIGMAS, 0.0]}
        return ImageGenerationRequest(
            prompt, width=SIDE, height=SIDE, steps=STEPS, seed=seed, guidance_scale=1.0, extra=sampling
        )

    requests = [request("a cat", SEED), request("a dog", SEED), request("a cat", SEED + 1)]
    with StableDiffusionCppVisionBackend(config) as backend:
        items = backend.generate_batch(requests)
    drawn = []
    for item in items:
        assert isinstance(item, GeneratedAsset), item
        drawn.append(np.asarray(decode_image(item.data)))

    found = difference(drawn[0], expected)
    assert found.max() <= 2
    assert (found == 0).mean() > 0.9
    # the comparison has power: another prompt or seed is far away
    assert all(difference(other, expected).max() > 10 for other in drawn[1:])


def build_large(make: Any, pool: Any) -> Any:
    """A model of true size from one small pool of random numbers: a normal draw of a billion takes a minute."""
    import torch

    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                count = parameter.numel()
                values = pool.repeat(-(-count // pool.numel()))[:count].view_as(parameter)
                scale = 0.02 if "embedding" in name else parameter[0].numel() ** -0.5
                parameter.copy_((values * scale).half())
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        for name, buffer in model.named_buffers():
            if "position_ids" in name:
                buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    return model.eval().requires_grad_(False)


@pytest.mark.slow
def test_stable_diffusion_1_gives_the_pixels_of_diffusers(tmp_path: Path) -> None:
    """The true shape, which the library fixes: 2.1 GB on disk, 6.7 GB of memory, a CPU minute.

    Alone: `python -m pytest -m "slow and sdcpp" tests/backends/test_sdcpp_parity.py`.
    """
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    config = config_for("python", tmp_path, model=str(tmp_path / "sd"), taesd=None)
    pool = torch.randn(1 << 23, generator=torch.Generator().manual_seed(0))
    text = transformers.CLIPTextConfig(eos_token_id=END, bos_token_id=49406, hidden_size=768, intermediate_size=3072)
    text.num_hidden_layers, text.num_attention_heads = 12, 12
    attention, plain = "CrossAttn{}Block2D", "{}Block2D"
    parts = {
        "unet": lambda: diffusers.UNet2DConditionModel(
            down_block_types=(*(attention.format("Down"),) * 3, plain.format("Down")),
            up_block_types=(plain.format("Up"), *(attention.format("Up"),) * 3),
            cross_attention_dim=768,
        ),
        "vae": lambda: diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ),
        "text_encoder": lambda: transformers.CLIPTextModel(text),
    }
    models = {name: build_large(make, pool) for name, make in parts.items()}
    for name, model in models.items():
        state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        if name == "text_encoder":
            state = {
                key if key.startswith("text_model.") else f"text_model.{key}": value
                for key, value in state.items()
                if "position_ids" not in key
            }
        file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        (tmp_path / "sd" / name).mkdir(parents=True)
        save_file(state, tmp_path / "sd" / name / f"{file}.safetensors")

    pipeline = diffusers.StableDiffusionPipeline(
        vae=models["vae"],
        unet=models["unet"],
        text_encoder=None,
        tokenizer=None,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    tokens = torch.tensor([[*A_CAT, *[END] * (77 - len(A_CAT))]])
    with torch.no_grad():
        expected = pipeline(
            prompt_embeds=models["text_encoder"](tokens).last_hidden_state,
            height=SIDE,
            width=SIDE,
            num_inference_steps=STEPS,  # one less must divide 999, or the two round timesteps differently
            guidance_scale=1.0,
            latents=torch.randn((1, 4, SIDE // 8, SIDE // 8), generator=torch.Generator("cpu").manual_seed(SEED)),
            output_type="np",
        ).images[0]
    sampling = {"sampler": "euler", "scheduler": "discrete"}
    request = ImageGenerationRequest(
        "a cat", width=SIDE, height=SIDE, steps=STEPS, seed=SEED, guidance_scale=1.0, extra=sampling
    )
    with StableDiffusionCppVisionBackend(config) as backend:
        drawn = np.asarray(decode_image(backend.generate_image(request).data))

    found = difference(drawn, (expected * 255).round().astype(np.uint8))
    assert found.max() <= 2
    assert (found == 0).mean() > 0.9
