"""More tiny models, for the sweep over Diffusers' families: each the smallest that its class takes.

Also classes over the same weights as another: a saved folder whose index names the other class.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_models import (
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    t5_text_encoder,
    t5_tokenizer,
)


def make_sd3() -> Any:
    import diffusers

    first, second, third = clip_tokenizer(), clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=16,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(
            latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5
        ),
        text_encoder=clip_text_encoder(first, projection=True),
        tokenizer=first,
        text_encoder_2=clip_text_encoder(second, projection=True),
        tokenizer_2=second,
        text_encoder_3=t5_text_encoder(third),
        tokenizer_3=third,
    )


def make_pixart(name: str = "PixArtAlphaPipeline") -> Any:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )
    return getattr(diffusers, name)(
        transformer=transformer.eval(),
        vae=image_vae(),
        scheduler=diffusers.DDIMScheduler(),
        text_encoder=t5_text_encoder(tokenizer),
        tokenizer=tokenizer,
    )


def make_pixart_sigma() -> Any:
    return make_pixart("PixArtSigmaPipeline")


def make_chroma() -> Any:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=t5_text_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def make_aura_flow() -> Any:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_text_encoder(tokenizer, multilingual=True),
        vae=image_vae(),
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )


def make_ltx() -> Any:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=t5_text_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def make_cogvideox() -> Any:
    import diffusers

    tokenizer = t5_tokenizer()
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=t5_text_encoder(tokenizer),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=diffusers.DDIMScheduler(),
    )


def make_animate_diff() -> Any:
    import diffusers

    from tests.support.tiny_models import make_sd

    parts = make_sd().components
    adapter = diffusers.MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    )
    del parts["safety_checker"]
    return diffusers.AnimateDiffPipeline(**parts, motion_adapter=adapter.eval())


def make_sky_reels() -> Any:
    import diffusers

    from tests.support.tiny_models import wan_components

    parts = wan_components(16)
    config = {key: value for key, value in parts["transformer"].config.items() if not key.startswith("_")}
    config["qk_norm"] = "rms_norm_across_heads"
    known = diffusers.SkyReelsV2Transformer3DModel.__init__.__wrapped__.__code__.co_varnames
    transformer = diffusers.SkyReelsV2Transformer3DModel(
        **{key: value for key, value in config.items() if key in known}
    )
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    return diffusers.SkyReelsV2Pipeline(**{**parts, "transformer": transformer.eval(), "scheduler": scheduler})


MORE: dict[str, Callable[[], Any]] = {
    "AnimateDiffPipeline": make_animate_diff,
    "AuraFlowPipeline": make_aura_flow,
    "ChromaPipeline": make_chroma,
    "CogVideoXPipeline": make_cogvideox,
    "LTXPipeline": make_ltx,
    "PixArtAlphaPipeline": make_pixart,
    "PixArtSigmaPipeline": make_pixart_sigma,
    "SkyReelsV2Pipeline": make_sky_reels,
    "StableDiffusion3Pipeline": make_sd3,
}

#: Classes over the weights of another one.
SAME_WEIGHTS: dict[str, str] = {
    "AnimateDiffPAGPipeline": "AnimateDiffPipeline",
    "AnimateDiffVideoToVideoPipeline": "AnimateDiffPipeline",
    "BriaFiboEditPipeline": "BriaFiboPipeline",
    "ChromaImg2ImgPipeline": "ChromaPipeline",
    "ChromaInpaintPipeline": "ChromaPipeline",
    "CogVideoXFunControlPipeline": "CogVideoXImageToVideoPipeline",
    "CogVideoXVideoToVideoPipeline": "CogVideoXPipeline",
    "CycleDiffusionPipeline": "StableDiffusionPipeline",
    "DreamLiteMobilePipeline": "DreamLitePipeline",
    "Flux2KleinInpaintPipeline": "Flux2KleinPipeline",
    "Flux2KleinKVPipeline": "Flux2KleinPipeline",
    "FluxControlImg2ImgPipeline": "FluxControlPipeline",
    "FluxControlInpaintPipeline": "FluxControlPipeline",
    "FluxImg2ImgPipeline": "FluxPipeline",
    "FluxInpaintPipeline": "FluxPipeline",
    "FluxKontextInpaintPipeline": "FluxPipeline",
    "FluxKontextPipeline": "FluxPipeline",
    "HeliosPyramidPipeline": "HeliosPipeline",
    "HunyuanDiTPAGPipeline": "HunyuanDiTPipeline",
    "IFImg2ImgPipeline": "IFPipeline",
    "IFImg2ImgSuperResolutionPipeline": "IFSuperResolutionPipeline",
    "IFInpaintingPipeline": "IFPipeline",
    "IFInpaintingSuperResolutionPipeline": "IFSuperResolutionPipeline",
    "Kandinsky3Img2ImgPipeline": "Kandinsky3Pipeline",
    "KandinskyImg2ImgCombinedPipeline": "KandinskyCombinedPipeline",
    "KandinskyV22Img2ImgCombinedPipeline": "KandinskyV22CombinedPipeline",
    "KandinskyV22Pipeline": "KandinskyV22CombinedPipeline",
    "KolorsImg2ImgPipeline": "KolorsPipeline",
    "KolorsPAGPipeline": "KolorsPipeline",
    "LTX2ConditionPipeline": "LTX2Pipeline",
    "LTX2HDRPipeline": "LTX2Pipeline",
    "LTX2ImageToVideoPipeline": "LTX2Pipeline",
    "LTX2InContextPipeline": "LTX2Pipeline",
    "LTXConditionPipeline": "LTXPipeline",
    "LTXI2VLongMultiPromptPipeline": "LTXPipeline",
    "LTXImageToVideoPipeline": "LTXPipeline",
    "LatentConsistencyModelImg2ImgPipeline": "LatentConsistencyModelPipeline",
    "LucyEditPipeline": "WanPipeline",
    "PixArtSigmaPAGPipeline": "PixArtSigmaPipeline",
    "QwenImageEditInpaintPipeline": "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline": "QwenImageEditPipeline",
    "QwenImageImg2ImgPipeline": "QwenImagePipeline",
    "QwenImageInpaintPipeline": "QwenImagePipeline",
    "QwenImageLayeredPipeline": "QwenImageEditPipeline",
    "SanaPAGPipeline": "SanaPipeline",
    "SanaSprintImg2ImgPipeline": "SanaSprintPipeline",
    "SemanticStableDiffusionPipeline": "StableDiffusionPipeline",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "SkyReelsV2Pipeline",
    "SkyReelsV2DiffusionForcingPipeline": "SkyReelsV2Pipeline",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "SkyReelsV2Pipeline",
    "StableDiffusion3Img2ImgPipeline": "StableDiffusion3Pipeline",
    "StableDiffusion3InpaintPipeline": "StableDiffusion3Pipeline",
    "StableDiffusion3PAGImg2ImgPipeline": "StableDiffusion3Pipeline",
    "StableDiffusion3PAGPipeline": "StableDiffusion3Pipeline",
    "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
    "StableDiffusionDiffEditPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    "StableDiffusionLDM3DPipeline": "StableDiffusionPipeline",
    "StableDiffusionModelEditingPipeline": "StableDiffusionPipeline",
    "StableDiffusionPAGImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionPAGInpaintPipeline": "StableDiffusionPipeline",
    "StableDiffusionPAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionPanoramaPipeline": "StableDiffusionPipeline",
    "StableDiffusionSAGPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLPAGImg2ImgPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLPAGInpaintPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLPAGPipeline": "StableDiffusionXLPipeline",
    "TextToVideoZeroSDXLPipeline": "StableDiffusionXLPipeline",
    "VisualClozeGenerationPipeline": "VisualClozePipeline",
    "WanVideoToVideoPipeline": "WanPipeline",
    "ZImageImg2ImgPipeline": "ZImagePipeline",
    "ZImageInpaintPipeline": "ZImagePipeline",
}


def name_class(folder: Path, to: Path, class_name: str) -> Path:
    """Lay out a folder with the same weights under another class."""
    to.mkdir()
    for part in folder.iterdir():
        (to / part.name).symlink_to(part)
    index = json.loads((folder / "model_index.json").read_text())
    (to / "model_index.json").unlink()
    (to / "model_index.json").write_text(json.dumps({**index, "_class_name": class_name}))
    return to
