"""Tiny Diffusers models with random weights: real pipelines that run in milliseconds.

Tokenizers are made of bytes and characters, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    tokens = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in letters] + [("▁" + letter, -3.5) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_text_encoder(tokenizer: Any, *, projection: bool = False) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="gelu",
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval()


def t5_text_encoder(tokenizer: Any, *, multilingual: bool = False) -> Any:
    import transformers

    config_class = transformers.UMT5Config if multilingual else transformers.T5Config
    encoder_class = transformers.UMT5EncoderModel if multilingual else transformers.T5EncoderModel
    config = config_class(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return encoder_class(config).eval()


def image_vae(*, latent_channels: int = 4, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    widths = (8, 8, 16, 16)
    return AutoencoderKL(
        block_out_channels=widths,
        latent_channels=latent_channels,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        sample_size=64,
        **settings,
    ).eval()


def make_sd(unet_channels: int = 4) -> Any:
    import diffusers

    tokenizer = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        in_channels=unet_channels,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()
    return diffusers.StableDiffusionPipeline(
        vae=image_vae(),
        text_encoder=clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_sdxl() -> Any:
    import diffusers

    first, second = clip_tokenizer(), clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
        norm_num_groups=8,
    ).eval()
    return diffusers.StableDiffusionXLPipeline(
        vae=image_vae(),
        text_encoder=clip_text_encoder(first),
        text_encoder_2=clip_text_encoder(second, projection=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **SCHEDULE),
        add_watermarker=False,
    )


def make_flux() -> Any:
    import diffusers

    first, second = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    ).eval()
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=clip_text_encoder(first),
        tokenizer=first,
        text_encoder_2=t5_text_encoder(second),
        tokenizer_2=second,
        transformer=transformer,
    )


def wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def wan_components(in_channels: int) -> dict[str, Any]:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=in_channels,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    return {
        "vae": wan_vae(),
        "transformer": transformer.eval(),
        "text_encoder": t5_text_encoder(tokenizer, multilingual=True),
        "tokenizer": tokenizer,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def make_wan() -> Any:
    import diffusers

    return diffusers.WanPipeline(**wan_components(16))


def make_wan_image_to_video() -> Any:
    import diffusers

    return diffusers.WanImageToVideoPipeline(**wan_components(36), image_encoder=None, image_processor=None)


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    letters = [token for token in clip_tokenizer().get_vocab() if not token.endswith(("</w>", "|>"))]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([*letters, "<|endoftext|>"])}, merges=[]
    )
    names = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad", "vision_pad")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    return tokenizer


def qwen_vl_encoder(tokenizer: Any, **settings: Any) -> Any:
    """Qwen 2.5 VL, which reads pictures too."""
    import transformers

    words = tokenizer.get_vocab()
    text_config = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_config,
        vision_config=vision_config,
        hidden_size=16,
        vocab_size=len(tokenizer),
        vision_start_token_id=words["<|vision_start|>"],
        vision_end_token_id=words["<|vision_end|>"],
        image_token_id=words["<|image_pad|>"],
        video_token_id=words["<|video_pad|>"],
        **settings,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_image_vae(base_dim: int = 12) -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=base_dim,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def make_qwen_image() -> Any:
    import diffusers

    tokenizer = qwen_tokenizer()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=qwen_image_vae(),
        text_encoder=qwen_vl_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def make_svd() -> Any:
    import diffusers
    import transformers

    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=32,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        **SCHEDULE,
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    return diffusers.StableVideoDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        image_encoder=transformers.CLIPVisionModelWithProjection(vision).eval(),
        scheduler=scheduler,
        feature_extractor=transformers.CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224}),
    )


def save(make: Callable[[], Any], folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    make().save_pretrained(folder)
    return folder


def save_adapter(pipeline_class: Any, model: Path, folder: Path, part: str) -> Path:
    """Save a LoRA adapter that changes pictures visibly, made by PEFT for one component of a model."""
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = pipeline_class.from_pretrained(str(model), local_files_only=True)
    denoiser = getattr(pipeline, part)
    torch.manual_seed(5)
    denoiser.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    weights = {name: value * 8 for name, value in get_peft_model_state_dict(denoiser).items()}
    pipeline_class.save_lora_weights(folder, **{f"{part}_lora_layers": weights})
    return folder
