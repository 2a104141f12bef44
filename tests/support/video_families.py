"""Tiny models of families that make videos, for the sweep: each the smallest that its class takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.family_parts import (
    chat_tokenizer,
    clip,
    clip_images,
    clip_vision,
    flow,
    language_config,
    model,
    pipeline,
    qwen_vl,
    scheduler,
    t5,
    text,
)
from tests.support.image_families import kandinsky5_parts
from tests.support.tiny_models import wan_components, wan_vae


def wan_transformer(name: str, in_channels: int = 16, **more: Any) -> Any:
    return model(
        name,
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
        rope_max_seq_len=64,
        **more,
    )


def make_sana_video(name: str = "SanaVideoPipeline") -> Any:
    transformer = model(
        "SanaVideoTransformer3DModel",
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        patch_size=(1, 2, 2),
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    steps = flow() if "Image" in name else scheduler("DPMSolverMultistepScheduler")
    return pipeline(name, transformer=transformer, vae=wan_vae(), scheduler=steps, **text("Gemma2Model"))


def make_sana_image_to_video() -> Any:
    return make_sana_video("SanaImageToVideoPipeline")


def hunyuan_vae(channels: int = 4, levels: int = 4) -> Any:
    return model(
        "AutoencoderKLHunyuanVideo",
        latent_channels=channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * levels,
        up_block_types=("HunyuanVideoUpBlock3D",) * levels,
        block_out_channels=(8,) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )


def hunyuan_transformer(name: str = "HunyuanVideoTransformer3DModel", **settings: Any) -> Any:
    usual = {"in_channels": 4, "out_channels": 4, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True}
    sizes = {"num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1, "num_single_layers": 1}
    text_sizes = {"num_refiner_layers": 1, "text_embed_dim": 16, "pooled_projection_dim": 32}
    return model(name, **{**usual, **sizes, **text_sizes, "rope_axes_dim": (2, 4, 4), **settings})


def make_hunyuan_video() -> Any:
    return pipeline(
        "HunyuanVideoPipeline",
        transformer=hunyuan_transformer(),
        vae=hunyuan_vae(),
        scheduler=flow(shift=7.0),
        **text("LlamaModel"),
        **clip("_2"),
    )


def make_hunyuan_skyreels() -> Any:
    return pipeline(
        "HunyuanSkyreelsImageToVideoPipeline",
        transformer=hunyuan_transformer(in_channels=8),
        vae=hunyuan_vae(),
        scheduler=flow(shift=7.0),
        **text("LlamaModel"),
        **clip("_2"),
    )


def make_hunyuan_image_to_video() -> Any:
    import transformers

    tokenizer = chat_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=clip_vision(224).config,
        text_config=transformers.LlamaConfig(**language_config(tokenizer)),
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
        pad_token_id=tokenizer.pad_token_id,
    )
    return pipeline(
        "HunyuanVideoImageToVideoPipeline",
        transformer=hunyuan_transformer(in_channels=9, guidance_embeds=False, image_condition_type="latent_concat"),
        vae=hunyuan_vae(),
        scheduler=flow(shift=7.0),
        tokenizer=tokenizer,
        text_encoder=transformers.LlavaForConditionalGeneration(config).eval(),
        image_processor=clip_images(224),
        **clip("_2"),
    )


def make_framepack() -> Any:
    import transformers

    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return pipeline(
        "HunyuanVideoFramepackPipeline",
        transformer=hunyuan_transformer(
            "HunyuanVideoFramepackTransformer3DModel",
            patch_size=2,
            has_image_proj=True,
            image_proj_dim=32,
            has_clean_x_embedder=True,
        ),
        vae=hunyuan_vae(),
        scheduler=flow(shift=7.0),
        image_encoder=transformers.SiglipVisionModel(config).eval(),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
        **text("LlamaModel"),
        **clip("_2"),
    )


def make_hunyuan_video15() -> Any:
    import transformers

    glyphs = transformers.ByT5Tokenizer()
    config = transformers.T5Config(
        vocab_size=len(glyphs), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    words = qwen_vl()
    transformer = model(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = model(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return pipeline(
        "HunyuanVideo15Pipeline",
        transformer=transformer,
        vae=vae,
        scheduler=flow(shift=7.0),
        tokenizer=words["tokenizer"],
        text_encoder=words["text_encoder"].model.language_model,
        tokenizer_2=glyphs,
        text_encoder_2=transformers.T5EncoderModel(config).eval(),
        guider=scheduler("ClassifierFreeGuidance", guidance_scale=1.0),
    )


def make_kandinsky5_t2v() -> Any:
    return pipeline("Kandinsky5T2VPipeline", **kandinsky5_parts(hunyuan_vae(16), condition=False))


def make_kandinsky5_i2v() -> Any:
    return pipeline("Kandinsky5I2VPipeline", **kandinsky5_parts(hunyuan_vae(16), condition=True))


def make_mochi() -> Any:
    import torch

    transformer = model(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    torch.nn.init.zeros_(transformer.pos_frequencies)  # it is left without values
    vae = model(
        "AutoencoderKLMochi",
        latent_channels=12,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return pipeline("MochiPipeline", transformer=transformer, vae=vae, scheduler=flow(), **t5())


def make_allegro() -> Any:
    transformer = model(
        "AllegroTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=32,
    )
    vae = model(
        "AutoencoderKLAllegro",
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return pipeline("AllegroPipeline", transformer=transformer, vae=vae, scheduler=scheduler("DDIMScheduler"), **t5())


def make_ltx2() -> Any:
    import transformers
    from diffusers.pipelines import ltx2

    tokenizer = chat_tokenizer()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=language_config(tokenizer), vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    rotary = {"rope_double_precision": False, "rope_type": "split"}
    transformer = model(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        qk_norm="rms_norm_across_heads",
        caption_channels=16,
        **rotary,
    )
    connector = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    connectors = ltx2.LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        causal_temporal_positioning=False,
        **{f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in connector.items()},
        **rotary,
    )
    vae = model(
        "AutoencoderKLLTX2Video",
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    audio_vae = model(
        "AutoencoderKLLTX2Audio",
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    )
    vocoder = ltx2.vocoder.LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    return pipeline(
        "LTX2Pipeline",
        transformer=transformer,
        connectors=connectors.eval(),
        vae=vae,
        audio_vae=audio_vae,
        vocoder=vocoder.eval(),
        scheduler=flow(),
        tokenizer=tokenizer,
        text_encoder=transformers.Gemma3ForConditionalGeneration(config).eval(),
    )


def make_cogvideox_image_to_video() -> Any:
    from tests.support.more_families import make_cogvideox

    parts = make_cogvideox().components
    shape = {key: value for key, value in parts["transformer"].config.items() if not key.startswith("_")}
    rotary = {"use_rotary_positional_embeddings": True, "attention_head_dim": 16, "num_attention_heads": 2}
    parts["transformer"] = model("CogVideoXTransformer3DModel", **{**shape, **rotary, "in_channels": 8})
    return pipeline("CogVideoXImageToVideoPipeline", **parts)


def make_animate_diff_sdxl() -> Any:
    from tests.support.tiny_models import make_sdxl

    parts = make_sdxl().components
    adapter = model(
        "MotionAdapter",
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )
    return pipeline("AnimateDiffSDXLPipeline", **parts, motion_adapter=adapter)


def sky_reels_parts(in_channels: int) -> dict[str, Any]:
    from tests.support.more_families import make_sky_reels

    settings = {"image_dim": 4, "qk_norm": "rms_norm_across_heads"}
    transformer = wan_transformer("SkyReelsV2Transformer3DModel", in_channels, **settings)
    return {**make_sky_reels().components, "transformer": transformer}


def make_sky_reels_image_to_video() -> Any:
    return pipeline(
        "SkyReelsV2ImageToVideoPipeline",
        **sky_reels_parts(36),
        image_encoder=clip_vision(32, 4),
        image_processor=clip_images(32),
    )


def cosmos_transformer(in_channels: int, out_channels: int) -> Any:
    return model(
        "CosmosTransformer3DModel",
        in_channels=in_channels,
        out_channels=out_channels,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    )


def make_cosmos(name: str = "CosmosTextToWorldPipeline", more: int = 0) -> Any:
    vae = model(
        "AutoencoderKLCosmos",
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=2,
        patch_size=4,
        patch_type="haar",
        scaling_factor=1.0,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    steps = scheduler("EDMEulerScheduler", sigma_max=80, sigma_schedule="karras", final_sigmas_type="sigma_min")
    parts = {"transformer": cosmos_transformer(4 + more, 4), "vae": vae, "scheduler": steps, **t5()}
    return checked(name, **parts)


def make_cosmos_video() -> Any:
    return make_cosmos("CosmosVideoToWorldPipeline", 1)


def make_cosmos2(name: str = "Cosmos2TextToImagePipeline", more: int = 0) -> Any:
    steps = flow(use_karras_sigmas=True)
    return checked(name, transformer=cosmos_transformer(16 + more, 16), vae=wan_vae(), scheduler=steps, **t5())


def make_cosmos2_video() -> Any:
    return make_cosmos2("Cosmos2VideoToWorldPipeline", 1)


def make_cosmos25() -> Any:
    return checked(
        "Cosmos2_5_PredictBasePipeline",
        transformer=cosmos_transformer(17, 16),
        vae=wan_vae(),
        scheduler=scheduler("UniPCMultistepScheduler"),
        **qwen_vl(),
    )


def checked(name: str, **parts: Any) -> Any:
    """A pipeline of Cosmos, whose safety checker is a package of its own that it makes where it is given none."""
    made = pipeline(name, **parts, safety_checker=PassingChecker())
    made.register_modules(safety_checker=None)
    return made


class PassingChecker:
    """In the place of the package `cosmos_guardrail`, whose weights are large."""

    def to(self, device: Any) -> None:
        """Stay."""

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def make_easy_animate() -> Any:
    blocks = ("SpatialTemporalDownBlock3D",) * 3, ("SpatialTemporalUpBlock3D",) * 3
    vae = model(
        "AutoencoderKLMagvit",
        down_block_types=("SpatialDownBlock3D", *blocks[0]),
        up_block_types=("SpatialUpBlock3D", *blocks[1]),
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    transformer = model(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    return pipeline("EasyAnimatePipeline", transformer=transformer, vae=vae, scheduler=flow(), **qwen_vl())


def make_any_flow(name: str = "AnyFlowPipeline", transformer: str = "AnyFlowTransformer3DModel", **more: Any) -> Any:
    parts = wan_components(16)
    parts["transformer"] = wan_transformer(transformer, gate_value=0.25, deltatime_type="r", **more)
    parts["scheduler"] = scheduler("FlowMapEulerDiscreteScheduler", shift=5.0)
    return pipeline(name, **parts)


def make_any_flow_far() -> Any:
    chunks = {"compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3, "chunk_partition": (1, 1, 1)}
    return make_any_flow("AnyFlowFARPipeline", "AnyFlowFARTransformer3DModel", **chunks)


def make_motif(name: str = "MotifVideoPipeline") -> Any:
    import transformers

    words = t5()
    text_config = language_config(words["tokenizer"], hidden_size=32, head_dim=16, num_hidden_layers=1)
    vision = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.T5Gemma2EncoderConfig(
        text_config={**text_config, "dropout_rate": 0.0},
        vision_config={**vision, "image_size": 16, "patch_size": 4, "num_channels": 3},
    )
    encoder = transformers.models.t5gemma2.modeling_t5gemma2.T5Gemma2Encoder(config).eval()
    transformer = model(
        "MotifVideoTransformer3DModel",
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        mlp_ratio=4.0,
        patch_size=1,
        patch_size_t=1,
        qk_norm="rms_norm",
        text_embed_dim=32,
        rope_axes_dim=(4, 4, 4),
        **({"image_embed_dim": 4} if "Image" in name else {}),
    )
    images = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    return pipeline(
        name,
        transformer=transformer,
        vae=wan_vae(),
        scheduler=flow(shift=7.0),
        tokenizer=words["tokenizer"],
        text_encoder=encoder,
        guider=scheduler("AdaptiveProjectedGuidance"),
        **({"feature_extractor": images} if "Image" in name else {}),
    )


def make_motif_image_to_video() -> Any:
    return make_motif("MotifVideoImage2VideoPipeline")


def make_chrono_edit() -> Any:
    parts = wan_components(36)
    parts["transformer"] = wan_transformer(
        "ChronoEditTransformer3DModel", 36, qk_norm="rms_norm_across_heads", image_dim=4
    )
    return pipeline("ChronoEditPipeline", **parts, image_encoder=clip_vision(32, 4), image_processor=clip_images(32))


VIDEOS: dict[str, Callable[[], Any]] = {
    "AllegroPipeline": make_allegro,
    "AnimateDiffSDXLPipeline": make_animate_diff_sdxl,
    "AnyFlowFARPipeline": make_any_flow_far,
    "AnyFlowPipeline": make_any_flow,
    "ChronoEditPipeline": make_chrono_edit,
    "CogVideoXImageToVideoPipeline": make_cogvideox_image_to_video,
    "Cosmos2TextToImagePipeline": make_cosmos2,
    "Cosmos2VideoToWorldPipeline": make_cosmos2_video,
    "Cosmos2_5_PredictBasePipeline": make_cosmos25,
    "CosmosTextToWorldPipeline": make_cosmos,
    "CosmosVideoToWorldPipeline": make_cosmos_video,
    "EasyAnimatePipeline": make_easy_animate,
    "HunyuanSkyreelsImageToVideoPipeline": make_hunyuan_skyreels,
    "HunyuanVideo15Pipeline": make_hunyuan_video15,
    "HunyuanVideoFramepackPipeline": make_framepack,
    "HunyuanVideoImageToVideoPipeline": make_hunyuan_image_to_video,
    "HunyuanVideoPipeline": make_hunyuan_video,
    "Kandinsky5I2VPipeline": make_kandinsky5_i2v,
    "Kandinsky5T2VPipeline": make_kandinsky5_t2v,
    "LTX2Pipeline": make_ltx2,
    "MochiPipeline": make_mochi,
    "MotifVideoImage2VideoPipeline": make_motif_image_to_video,
    "MotifVideoPipeline": make_motif,
    "SanaImageToVideoPipeline": make_sana_image_to_video,
    "SanaVideoPipeline": make_sana_video,
    "SkyReelsV2ImageToVideoPipeline": make_sky_reels_image_to_video,
}
