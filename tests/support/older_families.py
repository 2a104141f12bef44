"""Tiny models of older families, for the sweep: Kandinsky 2 and 3, IF, Stable Cascade, latent diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.family_parts import (
    clip,
    clip_images,
    clip_vision,
    model,
    pipeline,
    scheduler,
    t5,
    unet,
)
from tests.support.tiny_models import SCHEDULE, image_vae, make_sd


def kandinsky_unet(condition: str, channels: int = 4) -> Any:
    return model(
        "UNet2DConditionModel",
        in_channels=channels,
        out_channels=8,
        addition_embed_type=condition,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=32,
        encoder_hid_dim_type=f"{condition}_proj",
        cross_attention_dim=32,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )


def kandinsky_prior() -> dict[str, Any]:
    import torch

    prior = model("PriorTransformer", num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    prior.clip_std = torch.nn.Parameter(torch.ones_like(prior.clip_std))
    steps = scheduler(
        "UnCLIPScheduler", variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
    )
    parts = {"prior": prior, "image_encoder": clip_vision(224), "scheduler": steps, "image_processor": clip_images(224)}
    return {f"prior_{name}": part for name, part in {**parts, **clip(projection=True)}.items()}


def kandinsky_parts(unet: Any) -> dict[str, Any]:
    movq = model(
        "VQModel",
        block_out_channels=[32, 32, 32, 32],
        down_block_types=[*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    steps = scheduler("DDIMScheduler", beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    return {"unet": unet, "movq": movq, "scheduler": steps}


def make_kandinsky22(name: str = "KandinskyV22CombinedPipeline", channels: int = 4) -> Any:
    return pipeline(name, **kandinsky_parts(kandinsky_unet("image", channels)), **kandinsky_prior())


def make_kandinsky22_inpaint() -> Any:
    return make_kandinsky22("KandinskyV22InpaintCombinedPipeline", 9)


def make_kandinsky(name: str = "KandinskyCombinedPipeline", channels: int = 4) -> Any:
    import transformers
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    letters = [(chr(code), -3.0) for code in range(33, 127)]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters, ("<mask>", 0.0)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=77)
    config = MCLIPConfig(
        numDims=32,
        transformerDimensions=32,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
    )
    encoder = MultilingualCLIP(config).eval()
    parts = kandinsky_parts(kandinsky_unet("text_image", channels))
    return pipeline(name, **parts, **kandinsky_prior(), text_encoder=encoder, tokenizer=tokenizer)


def make_kandinsky_inpaint() -> Any:
    return make_kandinsky("KandinskyInpaintCombinedPipeline", 9)


def make_kandinsky3() -> Any:
    unet = model(
        "Kandinsky3UNet",
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=32,
    )
    movq = kandinsky_parts(None)["movq"]
    steps = scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2", clip_sample=True)
    return pipeline("Kandinsky3Pipeline", unet=unet, movq=movq, scheduler=steps, **t5())


def make_if(name: str = "IFPipeline", channels: int = 3, side: int = 64, **more: Any) -> Any:
    from diffusers.models.attention_processor import AttnAddedKVProcessor
    from diffusers.pipelines.deepfloyd_if import IFWatermarker

    denoiser = model(
        "UNet2DConditionModel",
        sample_size=side,
        layers_per_block=1,
        block_out_channels=[32, 64],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        in_channels=channels,
        out_channels=6,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        **({"class_embed_type": "timestep", "mid_block_scale_factor": 1.414} if channels == 6 else {}),
    )
    denoiser.set_attn_processor(AttnAddedKVProcessor())
    steps = scheduler(
        "DDPMScheduler",
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    return pipeline(
        name,
        unet=denoiser,
        scheduler=steps,
        watermarker=IFWatermarker(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **t5(),
        **more,
    )


def make_if_larger() -> Any:
    noise = scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2")
    return make_if("IFSuperResolutionPipeline", 6, 128, image_noising_scheduler=noise)


def make_cascade() -> Any:
    prior = model(
        "StableCascadeUNet",
        conditioning_dim=128,
        block_out_channels=(128, 128),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_image_in_channels=768,
        switch_level=(False,),
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
    )
    plain = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    decoder = model(
        "StableCascadeUNet",
        in_channels=4,
        out_channels=4,
        conditioning_dim=128,
        block_out_channels=(16, 32, 64, 128),
        num_attention_heads=(-1, -1, 1, 2),
        down_num_layers_per_block=(1, 1, 1, 1),
        up_num_layers_per_block=(1, 1, 1, 1),
        down_blocks_repeat_mappers=(1, 1, 1, 1),
        up_blocks_repeat_mappers=(3, 3, 2, 2),
        block_types_per_layer=(plain, plain, (*plain, "SDCascadeAttnBlock"), (*plain, "SDCascadeAttnBlock")),
        clip_text_pooled_in_channels=32,
        dropout=(0.1, 0.1, 0.1, 0.1),
    )
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    words, prior_words = clip(projection=True), clip(projection=True)
    return pipeline(
        "StableCascadeCombinedPipeline",
        decoder=decoder,
        vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2).eval(),
        scheduler=scheduler("DDPMWuerstchenScheduler"),
        prior_prior=prior,
        prior_scheduler=scheduler("DDPMWuerstchenScheduler"),
        **words,
        **{f"prior_{name}": part for name, part in prior_words.items()},
    )


def make_lcm() -> Any:
    parts = make_sd().components
    parts["unet"] = unet(time_cond_proj_dim=32)
    parts["scheduler"] = scheduler("LCMScheduler", **{**SCHEDULE, "steps_offset": 0}, set_alpha_to_one=False)
    return pipeline("LatentConsistencyModelPipeline", **parts, requires_safety_checker=False)


def make_ldm() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    words = clip()
    config = LDMBertConfig(
        vocab_size=len(words["tokenizer"]),
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        head_dim=16,
        d_model=32,
    )
    steps = scheduler("DDIMScheduler", **SCHEDULE, clip_sample=False, set_alpha_to_one=False)
    return pipeline(
        "LDMTextToImagePipeline",
        vqvae=image_vae(),
        bert=LDMBertModel(config).eval(),
        tokenizer=words["tokenizer"],
        unet=unet(),
        scheduler=steps,
    )


def make_depth2img() -> Any:
    import transformers

    parts = make_sd(unet_channels=5).components
    config = transformers.DPTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        backbone_out_indices=(0, 1, 2, 3),
        num_attention_heads=4,
        intermediate_size=37,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
    )
    for name in ("safety_checker", "feature_extractor", "image_encoder"):
        parts.pop(name)
    return pipeline(
        "StableDiffusionDepth2ImgPipeline",
        **parts,
        depth_estimator=transformers.DPTForDepthEstimation(config).eval(),
        feature_extractor=transformers.DPTImageProcessor(size={"height": 32, "width": 32}),
    )


def make_variation() -> Any:
    parts = make_sd().components
    return pipeline(
        "StableDiffusionImageVariationPipeline",
        vae=parts["vae"],
        unet=parts["unet"],
        scheduler=parts["scheduler"],
        image_encoder=clip_vision(),
        feature_extractor=clip_images(),
        safety_checker=None,
        requires_safety_checker=False,
    )


def make_latent_upscaler() -> Any:
    widths = [32, 32, 64, 64]
    denoiser = model(
        "UNet2DConditionModel",
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=widths,
        time_cond_proj_dim=64 + 32 + 64,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=32,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        in_channels=8,
        mid_block_type=None,
        only_cross_attention=False,
        out_channels=5,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
    )
    steps = scheduler("EulerDiscreteScheduler", prediction_type="sample")
    return pipeline("StableDiffusionLatentUpscalePipeline", unet=denoiser, vae=image_vae(), scheduler=steps, **clip())


OLDER: dict[str, Callable[[], Any]] = {
    "IFPipeline": make_if,
    "IFSuperResolutionPipeline": make_if_larger,
    "Kandinsky3Pipeline": make_kandinsky3,
    "KandinskyCombinedPipeline": make_kandinsky,
    "KandinskyInpaintCombinedPipeline": make_kandinsky_inpaint,
    "KandinskyV22CombinedPipeline": make_kandinsky22,
    "KandinskyV22InpaintCombinedPipeline": make_kandinsky22_inpaint,
    "LDMTextToImagePipeline": make_ldm,
    "LatentConsistencyModelPipeline": make_lcm,
    "StableCascadeCombinedPipeline": make_cascade,
    "StableDiffusionDepth2ImgPipeline": make_depth2img,
    "StableDiffusionImageVariationPipeline": make_variation,
    "StableDiffusionLatentUpscalePipeline": make_latent_upscaler,
}
