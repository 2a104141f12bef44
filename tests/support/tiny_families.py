"""Tiny models of families with ways of their own: outputs under other names, sizes they choose, one request a call.

`FAMILIES` is by pipeline class; each function makes the pipeline with random weights. Shapes are the smallest that the
classes take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.tiny_models import (
    image_vae,
    make_sd,
    qwen_tokenizer,
    t5_text_encoder,
    t5_tokenizer,
    wan_components,
)


def make_upscaler() -> Any:
    """Four times as large as its input; the UNet takes the noised input besides the latents."""
    import diffusers

    base = make_sd()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=7,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=8,
        num_class_embeds=100,
    )
    widths = (8, 8, 16)
    vae = diffusers.AutoencoderKL(
        block_out_channels=widths,
        latent_channels=4,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.08333,
    )
    return diffusers.StableDiffusionUpscalePipeline(
        vae=vae.eval(),
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet.eval(),
        low_res_scheduler=diffusers.DDPMScheduler(),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=90,
    )


def make_instruct_pix2pix() -> Any:
    """Its UNet takes the image's latents too: eight channels in, four out."""
    import diffusers

    parts = make_sd(unet_channels=8).components
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def make_wan_vace() -> Any:
    """Takes no list of prompts, not even of one."""
    import diffusers

    parts = wan_components(16)
    config = {key: value for key, value in parts.pop("transformer").config.items() if not key.startswith("_")}
    wanted = (
        *("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim"),
        *("freq_dim", "ffn_dim", "num_layers", "cross_attn_norm", "qk_norm", "rope_max_seq_len"),
    )
    transformer = diffusers.WanVACETransformer3DModel(
        **{key: config[key] for key in wanted}, vace_layers=[0], vace_in_channels=96
    )
    return diffusers.WanVACEPipeline(transformer=transformer.eval(), **parts)


def make_latte() -> Any:
    """Calls the number of frames video_length."""
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=3,
    )
    return diffusers.LattePipeline(
        tokenizer=tokenizer,
        text_encoder=t5_text_encoder(tokenizer),
        vae=image_vae(),
        transformer=transformer.eval(),
        scheduler=diffusers.DDIMScheduler(),
    )


def make_helios() -> Any:
    """Makes whole chunks of frames."""
    import diffusers

    parts = wan_components(16)
    transformer = diffusers.HeliosTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    scheduler = diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return diffusers.HeliosPipeline(**{**parts, "transformer": transformer.eval(), "scheduler": scheduler})


def make_flux2_klein() -> Any:
    """Reads its text encoder's layers by a list of numbers."""
    import diffusers
    import transformers

    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    config = transformers.Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=transformers.Qwen3ForCausalLM(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def make_img2img() -> Any:
    """A model that was saved as a class that edits."""
    import diffusers

    return diffusers.StableDiffusionImg2ImgPipeline(**make_sd().components, requires_safety_checker=False)


FAMILIES: dict[str, Callable[[], Any]] = {
    "Flux2KleinPipeline": make_flux2_klein,
    "HeliosPipeline": make_helios,
    "LattePipeline": make_latte,
    "StableDiffusionImg2ImgPipeline": make_img2img,
    "StableDiffusionInstructPix2PixPipeline": make_instruct_pix2pix,
    "StableDiffusionUpscalePipeline": make_upscaler,
    "WanVACEPipeline": make_wan_vace,
}
