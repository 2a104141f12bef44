"""Tiny models of families that make pictures by a transformer, for the sweep: each about the smallest there can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.family_parts import (
    chat_tokenizer,
    clip,
    flow,
    flow_vae,
    language_config,
    language_model,
    model,
    pipeline,
    qwen3_vl,
    qwen_processor,
    qwen_vl,
    scheduler,
    t5,
    text,
)
from tests.support.tiny_models import image_vae, make_qwen_image, qwen_image_vae, wan_vae


def make_sana(name: str = "SanaPipeline") -> Any:
    sprint = "Sprint" in name
    transformer = model(
        "SanaTransformer2DModel",
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=32,
        **({"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}),
    )
    vae = model(
        "AutoencoderDC",
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    steps = scheduler("SCMScheduler") if sprint else flow(shift=7.0)
    return pipeline(name, transformer=transformer, vae=vae, scheduler=steps, **text("Gemma2Model"))


def make_sana_sprint() -> Any:
    return make_sana("SanaSprintPipeline")


def make_lumina() -> Any:
    transformer = model(
        "LuminaNextDiT2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        ffn_dim_multiplier=None,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=16,
        scaling_factor=1.0,
    )
    return pipeline(
        "LuminaPipeline",
        transformer=transformer,
        vae=image_vae(),
        scheduler=flow(),
        **text("GemmaForCausalLM", prefixed=True),
    )


def make_lumina2() -> Any:
    transformer = model(
        "Lumina2Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        ffn_dim_multiplier=None,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=16,
    )
    return pipeline("Lumina2Pipeline", transformer=transformer, vae=flow_vae(), scheduler=flow(), **text("Gemma2Model"))


def z_image_transformer(**settings: Any) -> Any:
    import torch

    transformer = model(
        "ZImageTransformer2DModel",
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
        **settings,
    )
    for name, parameter in transformer.named_parameters():
        if name.endswith("pad_token"):  # they are left without values
            torch.nn.init.ones_(parameter)
    return transformer


def make_z_image() -> Any:
    return pipeline(
        "ZImagePipeline", transformer=z_image_transformer(), vae=flow_vae(16), scheduler=flow(), **text("Qwen3Model")
    )


def make_z_image_omni() -> Any:
    import transformers

    config = transformers.Siglip2VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_patches=16, patch_size=16
    )
    return pipeline(
        "ZImageOmniPipeline",
        transformer=z_image_transformer(siglip_feat_dim=16),
        vae=flow_vae(16),
        scheduler=flow(),
        siglip=transformers.Siglip2VisionModel(config).eval(),
        siglip_processor=transformers.Siglip2ImageProcessor(max_num_patches=16),
        **text("Qwen3Model"),
    )


def make_omnigen() -> Any:
    tokenizer = chat_tokenizer()
    transformer = model(
        "OmniGenTransformer2DModel",
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=1,
        in_channels=4,
        time_step_dim=4,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
    )
    return pipeline(
        "OmniGenPipeline",
        transformer=transformer,
        vae=image_vae(),
        scheduler=flow(invert_sigmas=True, num_train_timesteps=1),
        tokenizer=tokenizer,
    )


def make_hunyuan_dit() -> Any:
    import transformers

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = transformers.BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, model_max_length=77
    )
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformer = model(
        "HunyuanDiT2DModel",
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    return pipeline(
        "HunyuanDiTPipeline",
        transformer=transformer,
        vae=image_vae(),
        scheduler=scheduler("DDPMScheduler"),
        text_encoder=transformers.BertModel(config).eval(),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **t5("_2", multilingual=True),
    )


def make_hunyuan_image() -> Any:
    import transformers

    transformer = model(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=16,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = model(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=64,
    )
    glyphs = transformers.ByT5Tokenizer()
    config = transformers.T5Config(
        vocab_size=len(glyphs), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    guidance = {"adaptive_projected_guidance_start_step": 2}
    return pipeline(
        "HunyuanImagePipeline",
        transformer=transformer,
        vae=vae,
        scheduler=flow(shift=7.0),
        text_encoder_2=transformers.T5EncoderModel(config).eval(),
        tokenizer_2=glyphs,
        guider=scheduler("AdaptiveProjectedMixGuidance", **guidance),
        ocr_guider=scheduler("AdaptiveProjectedMixGuidance", **guidance),
        **qwen_vl(),
    )


def kandinsky5_parts(vae: Any, *, condition: bool) -> dict[str, Any]:
    words = qwen_vl()
    transformer = model(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=16,
        in_text_dim=16,
        in_text_dim2=32,
        time_dim=16,
        out_visual_dim=16,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        visual_cond=condition,
        attention_type="regular",
    )
    words["tokenizer"] = qwen_processor(words["tokenizer"], "Qwen2_5_VL")
    return {**words, **clip("_2"), "transformer": transformer, "vae": vae, "scheduler": flow(shift=7.0)}


def make_kandinsky5_t2i() -> Any:
    return pipeline("Kandinsky5T2IPipeline", **kandinsky5_parts(flow_vae(16), condition=False))


def make_kandinsky5_i2i() -> Any:
    return pipeline("Kandinsky5I2IPipeline", **kandinsky5_parts(flow_vae(16), condition=True))


def make_bria() -> Any:
    transformer = model(
        "BriaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    vae = image_vae(shift_factor=0, scaling_factor=0.13025)
    return pipeline(
        "BriaPipeline",
        transformer=transformer,
        vae=vae,
        scheduler=flow(),
        image_encoder=None,
        feature_extractor=None,
        **t5(),
    )


def make_bria_fibo() -> Any:
    transformer = model(
        "BriaFiboTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        text_encoder_dim=16,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    vae = model(
        "AutoencoderKLWan",
        base_dim=16,
        decoder_base_dim=16,
        dim_mult=[1, 1, 1, 1],
        is_residual=True,
        num_res_blocks=1,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        temperal_downsample=[False, True, True],
        z_dim=16,
    )
    return pipeline(
        "BriaFiboPipeline",
        transformer=transformer,
        vae=vae,
        scheduler=flow(),
        **text("SmolLM3ForCausalLM", vocab_size=128256),
    )


def make_krea2() -> Any:
    transformer = model(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    return pipeline(
        "Krea2Pipeline",
        transformer=transformer,
        vae=qwen_image_vae(),
        scheduler=flow(use_dynamic_shifting=True, max_image_seq_len=6400),
        text_encoder_select_layers=(0, 1, 2),
        **qwen3_vl("Qwen3VLModel"),
    )


def make_ovis_image() -> Any:
    transformer = model(
        "OvisImageTransformer2DModel",
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    return pipeline(
        "OvisImagePipeline", transformer=transformer, vae=flow_vae(), scheduler=flow(), **text("Qwen3Model")
    )


def make_longcat_image(name: str = "LongCatImagePipeline") -> Any:
    words = qwen_vl()
    transformer = model(
        "LongCatImageTransformer2DModel",
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    return pipeline(
        name,
        transformer=transformer,
        vae=flow_vae(16),
        scheduler=flow(),
        text_processor=qwen_processor(words["tokenizer"]),
        **words,
    )


def make_longcat_edit() -> Any:
    return make_longcat_image("LongCatImageEditPipeline")


def make_qwen_edit() -> Any:
    parts = make_qwen_image().components
    parts["tokenizer"] = chat_tokenizer()
    parts["vae"] = qwen_image_vae(base_dim=4)  # it always works on a megapixel
    return pipeline("QwenImageEditPipeline", **parts, processor=qwen_processor(parts["tokenizer"]))


def make_nucleus_moe() -> Any:
    words = qwen3_vl()
    transformer = model(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        moe_enabled=False,
        capacity_factors=[8.0, 8.0],
    )
    return pipeline(
        "NucleusMoEImagePipeline",
        transformer=transformer,
        vae=qwen_image_vae(),
        scheduler=flow(),
        text_encoder=words["text_encoder"],
        processor=qwen_processor(words["tokenizer"], "Qwen3VL"),
    )


def make_prx() -> Any:
    import transformers

    tokenizer = chat_tokenizer()
    tokenizer.model_max_length = 64
    settings = language_config(tokenizer, num_hidden_layers=1, layer_types=["full_attention"])
    settings |= {"query_pre_attn_scalar": 8, "dropout_rate": 0.0}
    config = transformers.T5GemmaConfig(encoder=settings, decoder=settings, is_encoder_decoder=False)
    encoder = transformers.models.t5gemma.modeling_t5gemma.T5GemmaEncoder(config.encoder).eval()
    encoder.config = config  # what a repository of this model has
    transformer = model(
        "PRXTransformer2DModel",
        patch_size=1,
        in_channels=4,
        context_in_dim=16,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    return pipeline(
        "PRXPipeline",
        transformer=transformer,
        vae=flow_vae(),
        scheduler=flow(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )


def make_prx_pixel() -> Any:
    transformer = model(
        "PRXTransformer2DModel",
        patch_size=1,
        in_channels=3,
        context_in_dim=16,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
        bottleneck_size=8,
        resolution_embeds=True,
    )
    return pipeline(
        "PRXPixelPipeline", transformer=transformer, scheduler=flow(), prompt_max_tokens=16, **text("Qwen3Model")
    )


def make_hidream() -> Any:
    tokenizer = chat_tokenizer()
    transformer = model(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=(0, 1),
    )
    return pipeline(
        "HiDreamImagePipeline",
        transformer=transformer,
        vae=flow_vae(),
        scheduler=flow(),
        tokenizer_4=tokenizer,
        text_encoder_4=language_model("LlamaForCausalLM", tokenizer),
        **clip(projection=True),
        **clip("_2", projection=True),
        **t5("_3"),
    )


def make_cogview3() -> Any:
    transformer = model(
        "CogView3PlusTransformer2DModel",
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    return pipeline(
        "CogView3PlusPipeline",
        transformer=transformer,
        vae=image_vae(),
        scheduler=scheduler("CogVideoXDDIMScheduler"),
        **t5(),
    )


def make_cogview4() -> Any:
    transformer = model(
        "CogView4Transformer2DModel",
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(64, 64),
    )
    steps = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return pipeline(
        "CogView4Pipeline",
        transformer=transformer,
        vae=image_vae(),
        scheduler=steps,
        **text("GlmForCausalLM", prefixed=True),
    )


def make_flux2() -> Any:
    import transformers

    from tests.support.tiny_families import make_flux2_klein

    tokenizer = chat_tokenizer()
    text_config = {"model_type": "mistral", **language_config(tokenizer), "sliding_window": None}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.Mistral3Config(
        text_config=text_config,
        vision_config={"model_type": "pixtral", **vision, "image_size": 30, "patch_size": 6, "num_channels": 3},
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
    )
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        **{f"image_{kind}token": f"<|{name}|>" for kind, name in _MARKS},
    )
    klein = make_flux2_klein()
    shape = {key: value for key, value in klein.transformer.config.items() if not key.startswith("_")}
    return pipeline(
        "Flux2Pipeline",
        transformer=model("Flux2Transformer2DModel", **{**shape, "guidance_embeds": True}),
        vae=klein.vae,
        scheduler=flow(),
        tokenizer=processor,
        text_encoder=transformers.Mistral3ForConditionalGeneration(config).eval(),
    )


_MARKS = (("", "image_pad"), ("break_", "vision_pad"), ("end_", "vision_end"))


def make_flux_of(name: str, channels: int, **more: Any) -> Any:
    from tests.support.tiny_models import make_flux

    parts = make_flux().components
    shape = {key: value for key, value in parts["transformer"].config.items() if not key.startswith("_")}
    wider = {**shape, "in_channels": channels, "out_channels": 16}
    parts["transformer"] = model("FluxTransformer2DModel", **wider)
    parts.pop("image_encoder"), parts.pop("feature_extractor")
    return pipeline(name, **parts, **more)


def make_flux_fill() -> Any:
    return make_flux_of("FluxFillPipeline", 16 + 16 + 4 * 64)


def make_flux_control() -> Any:
    return make_flux_of("FluxControlPipeline", 32)


def make_visualcloze() -> Any:
    return make_flux_of("VisualClozePipeline", 16 + 16 + 4 * 64, resolution=32)


def make_joyimage(name: str = "JoyImageEditPipeline", transformer: str = "JoyImageEditTransformer3DModel") -> Any:
    words = qwen3_vl()
    return pipeline(
        name,
        transformer=model(
            transformer,
            patch_size=[1, 2, 2],
            in_channels=16,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=16,
            num_layers=1,
            rope_dim_list=[4, 6, 6],
            theta=256,
        ),
        vae=wan_vae(),
        scheduler=flow(),
        processor=qwen_processor(words["tokenizer"], "Qwen3VL"),
        **words,
    )


def make_joyimage_plus() -> Any:
    return make_joyimage("JoyImageEditPlusPipeline", "JoyImageEditPlusTransformer3DModel")


def make_dreamlite() -> Any:
    words = qwen3_vl()
    unet = model(
        "DreamLiteUNetModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(32, 64),
        cross_attention_dim=16,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=8,
        transformer_layers_per_block=1,
    )
    widths = (32, 32, 32, 32)
    vae = model(
        "AutoencoderTiny",
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=4,
    )
    processor = qwen_processor(words["tokenizer"], "Qwen3VL")
    return pipeline("DreamLitePipeline", unet=unet, vae=vae, scheduler=flow(), processor=processor, **words)


IMAGES: dict[str, Callable[[], Any]] = {
    "BriaFiboPipeline": make_bria_fibo,
    "BriaPipeline": make_bria,
    "CogView3PlusPipeline": make_cogview3,
    "CogView4Pipeline": make_cogview4,
    "DreamLitePipeline": make_dreamlite,
    "Flux2Pipeline": make_flux2,
    "FluxControlPipeline": make_flux_control,
    "FluxFillPipeline": make_flux_fill,
    "HiDreamImagePipeline": make_hidream,
    "HunyuanDiTPipeline": make_hunyuan_dit,
    "HunyuanImagePipeline": make_hunyuan_image,
    "JoyImageEditPipeline": make_joyimage,
    "JoyImageEditPlusPipeline": make_joyimage_plus,
    "Kandinsky5I2IPipeline": make_kandinsky5_i2i,
    "Kandinsky5T2IPipeline": make_kandinsky5_t2i,
    "Krea2Pipeline": make_krea2,
    "LongCatImageEditPipeline": make_longcat_edit,
    "LongCatImagePipeline": make_longcat_image,
    "Lumina2Pipeline": make_lumina2,
    "LuminaPipeline": make_lumina,
    "NucleusMoEImagePipeline": make_nucleus_moe,
    "OmniGenPipeline": make_omnigen,
    "OvisImagePipeline": make_ovis_image,
    "PRXPipeline": make_prx,
    "PRXPixelPipeline": make_prx_pixel,
    "QwenImageEditPipeline": make_qwen_edit,
    "SanaPipeline": make_sana,
    "SanaSprintPipeline": make_sana_sprint,
    "VisualClozePipeline": make_visualcloze,
    "ZImageOmniPipeline": make_z_image_omni,
    "ZImagePipeline": make_z_image,
}
