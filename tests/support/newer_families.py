"""Tiny models of families that came last to Diffusers, and of some with a way of their own, for the sweep."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
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
    qwen3_vl,
    qwen_processor,
    scheduler,
    unet,
)
from tests.support.tiny_models import SCHEDULE, image_vae, make_sd, make_sdxl, wan_vae


def make_kolors() -> Any:
    import sentencepiece
    import torch
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    letters = [chr(code) for code in range(33, 127)]
    prefix = str(Path(tempfile.mkdtemp()) / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(letters)]),
        model_prefix=prefix,
        model_type="char",
        vocab_size=len(letters) + 4,
        minloglevel=2,
    )
    tokenizer = ChatGLMTokenizer(f"{prefix}.model")
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=160,
        hidden_size=8,
        ffn_hidden_size=16,
        kv_channels=4,
        num_attention_heads=2,
        seq_length=512,
        multi_query_attention=True,
        add_qkv_bias=True,
        original_rope=True,
    )
    encoder = ChatGLMModel(config).eval()
    for parameter in encoder.parameters():  # they are left without values
        torch.nn.init.normal_(parameter, std=0.1)
    denoiser = unet(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 8,
        cross_attention_dim=8,
    )
    return pipeline(
        "KolorsPipeline",
        vae=image_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=scheduler("EulerDiscreteScheduler", **SCHEDULE, timestep_spacing="leading"),
    )


def make_qwen_image21() -> Any:
    words = qwen3_vl(patch=16)
    transformer = model(
        "QwenImage21Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vae = model(
        "AutoencoderKLQwenImage21",
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return pipeline(
        "QwenImage21Pipeline",
        transformer=transformer,
        vae=vae,
        scheduler=flow(),
        text_encoder=words["text_encoder"],
        processor=qwen_processor(words["tokenizer"], "Qwen3VL", patch=16, most=2048 * 2048),
    )


def flux2_vae() -> Any:
    return model(
        "AutoencoderKLFlux2",
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
    )


def make_ernie_image() -> Any:
    import transformers

    tokenizer = chat_tokenizer()
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **language_config(tokenizer), "sliding_window": None},
        vision_config={"model_type": "pixtral", **vision, "image_size": 30, "patch_size": 6, "num_channels": 3},
        image_token_index=tokenizer.get_vocab()["<|image_pad|>"],
    )
    transformer = model(
        "ErnieImageTransformer2DModel",
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    return pipeline(
        "ErnieImagePipeline",
        transformer=transformer,
        vae=flux2_vae(),
        scheduler=flow(),
        tokenizer=tokenizer,
        text_encoder=transformers.Mistral3Model(config).eval(),
    )


def make_cosmos3() -> Any:
    from tests.support.video_families import PassingChecker

    tokenizer = chat_tokenizer()
    transformer = model(
        "Cosmos3OmniTransformer",
        head_dim=6,
        hidden_act="relu2",
        hidden_size=6,
        intermediate_size=12,
        latent_channel=16,
        latent_patch_size=1,
        num_attention_heads=1,
        num_hidden_layers=1,
        num_key_value_heads=1,
        patch_latent_dim=16,
        qk_norm_for_text=False,
        rope_axes_dim=[1, 1, 1],
        vocab_size=len(tokenizer),
    )
    made = pipeline(
        "Cosmos3OmniPipeline",
        transformer=transformer,
        text_tokenizer=tokenizer,
        vae=wan_vae(),
        scheduler=scheduler("UniPCMultistepScheduler"),
        safety_checker=PassingChecker(),
    )
    made.register_modules(safety_checker=None)
    return made


def make_hunyuan_video15_image() -> Any:
    import transformers

    from tests.support.video_families import make_hunyuan_video15

    base = make_hunyuan_video15()
    vision = transformers.SiglipVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return pipeline(
        "HunyuanVideo15ImageToVideoPipeline",
        **base.components,
        image_encoder=transformers.SiglipVisionModel(vision).eval(),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
    )


def make_text_to_video() -> Any:
    denoiser = unet(
        "UNet3DConditionModel",
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(32, 32),
    )
    steps = scheduler("DDIMScheduler", **SCHEDULE, clip_sample=False, set_alpha_to_one=False)
    return pipeline("TextToVideoSDPipeline", vae=image_vae(), unet=denoiser, scheduler=steps, **clip())


def make_i2vgen() -> Any:
    denoiser = model(
        "I2VGenXLUNet",
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        num_attention_heads=None,
        norm_num_groups=8,
    )
    return pipeline(
        "I2VGenXLPipeline",
        vae=image_vae(),
        unet=denoiser,
        scheduler=scheduler("DDIMScheduler", **SCHEDULE, clip_sample=False, set_alpha_to_one=False),
        image_encoder=clip_vision(),
        feature_extractor=clip_images(),
        **clip(),
    )


def make_unclip(name: str = "StableUnCLIPImg2ImgPipeline", **more: Any) -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    return pipeline(
        name,
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32).eval(),
        image_noising_scheduler=scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2"),
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=64),
        scheduler=scheduler("DDIMScheduler", **SCHEDULE, prediction_type="v_prediction", set_alpha_to_one=False),
        vae=image_vae(),
        **clip(),
        **(more or {"image_encoder": clip_vision(), "feature_extractor": clip_images()}),
    )


def make_unclip_text() -> Any:
    from tests.support.older_families import kandinsky_prior

    prior = kandinsky_prior()
    return make_unclip(
        "StableUnCLIPPipeline",
        prior=prior["prior_prior"],
        prior_scheduler=prior["prior_scheduler"],
        prior_tokenizer=prior["prior_tokenizer"],
        prior_text_encoder=prior["prior_text_encoder"],
    )


def make_sdxl_pix2pix() -> Any:
    parts = make_sdxl().components
    shape = {key: value for key, value in parts["unet"].config.items() if not key.startswith("_")}
    parts["unet"] = model("UNet2DConditionModel", **{**shape, "in_channels": 8})
    del parts["image_encoder"], parts["feature_extractor"]
    return pipeline("StableDiffusionXLInstructPix2PixPipeline", **parts)


def make_gligen() -> Any:
    parts = make_sd().components
    parts["unet"] = unet(attention_type="gated")
    del parts["image_encoder"]
    return pipeline("StableDiffusionGLIGENPipeline", **parts, requires_safety_checker=False)


def make_paradigms() -> Any:
    parts = make_sd().components
    parts["scheduler"] = scheduler("DDIMParallelScheduler", **SCHEDULE, clip_sample=False, set_alpha_to_one=False)
    del parts["image_encoder"]
    return pipeline("StableDiffusionParadigmsPipeline", **parts, requires_safety_checker=False)


def make_zero() -> Any:
    parts = make_sd().components
    del parts["image_encoder"]
    return pipeline("TextToVideoZeroPipeline", **parts, requires_safety_checker=False)


def make_bria_fibo2() -> Any:
    words = qwen3_vl(layers=36)
    transformer = model(
        "BriaFibo2Transformer2DModel",
        in_channels=4,
        dim=32,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=48,
        injection_layer_ids=(1, 2, 3, 4, 5),
        perceiver_num_layers=1,
        axes_dims=(4, 6, 6),
    )
    return pipeline(
        "BriaFibo2Pipeline",
        transformer=transformer,
        vae=flux2_vae(),
        scheduler=flow(),
        text_encoder=words["text_encoder"],
        processor=qwen_processor(words["tokenizer"], "Qwen3VL"),
    )


NEWER: dict[str, Callable[[], Any]] = {
    "BriaFibo2Pipeline": make_bria_fibo2,
    "Cosmos3OmniPipeline": make_cosmos3,
    "ErnieImagePipeline": make_ernie_image,
    "HunyuanVideo15ImageToVideoPipeline": make_hunyuan_video15_image,
    "I2VGenXLPipeline": make_i2vgen,
    "KolorsPipeline": make_kolors,
    "QwenImage21Pipeline": make_qwen_image21,
    "StableDiffusionGLIGENPipeline": make_gligen,
    "StableDiffusionParadigmsPipeline": make_paradigms,
    "StableDiffusionXLInstructPix2PixPipeline": make_sdxl_pix2pix,
    "StableUnCLIPImg2ImgPipeline": make_unclip,
    "StableUnCLIPPipeline": make_unclip_text,
    "TextToVideoSDPipeline": make_text_to_video,
    "TextToVideoZeroPipeline": make_zero,
}
