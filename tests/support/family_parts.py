"""What tiny models of families are made of: shared encoders, VAEs and schedulers, each in one line of a builder."""

from __future__ import annotations

from typing import Any

from tests.support.tiny_models import (
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    qwen_tokenizer,
    qwen_vl_encoder,
    t5_text_encoder,
    t5_tokenizer,
)

_SAY_IT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def pipeline(name: str, **parts: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**parts)


def model(name: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**config).eval()


def flow(**config: Any) -> Any:
    import diffusers

    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def scheduler(name: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**config)


def chat_tokenizer() -> Any:
    """A tokenizer of bytes with a chat template, in the place of those of Qwen, Gemma, Llama and the like."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = _SAY_IT
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    return tokenizer


def prefixed_tokenizer() -> Any:
    """One that begins every text with a token of its own, so that an empty prompt is not nothing."""
    import transformers
    from tokenizers.processors import TemplateProcessing

    tokenizer = chat_tokenizer()
    first = "<|im_start|>"
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, tokenizer.get_vocab()[first])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=first,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=_SAY_IT,
    )


def language_model(name: str, tokenizer: Any, **config: Any) -> Any:
    """A tiny model of any class of decoders."""
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(**language_config(tokenizer, **config))).eval()


def language_config(tokenizer: Any, **config: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **config,
    }


def text(name: str, *, prefixed: bool = False, **config: Any) -> dict[str, Any]:
    """A tokenizer and a language model of class `name`, as most pipelines call them."""
    tokenizer = prefixed_tokenizer() if prefixed else chat_tokenizer()
    return {"tokenizer": tokenizer, "text_encoder": language_model(name, tokenizer, **config)}


def t5(ending: str = "", **settings: Any) -> dict[str, Any]:
    tokenizer = t5_tokenizer()
    return {f"tokenizer{ending}": tokenizer, f"text_encoder{ending}": t5_text_encoder(tokenizer, **settings)}


def clip(ending: str = "", *, projection: bool = False) -> dict[str, Any]:
    tokenizer = clip_tokenizer()
    return {
        f"tokenizer{ending}": tokenizer,
        f"text_encoder{ending}": clip_text_encoder(tokenizer, projection=projection),
    }


def qwen_vl(**settings: Any) -> dict[str, Any]:
    tokenizer = chat_tokenizer()
    return {"tokenizer": tokenizer, "text_encoder": qwen_vl_encoder(tokenizer, **settings)}


def qwen_processor(tokenizer: Any, version: str = "Qwen2VL", *, patch: int = 14, most: int = 4 * 28 * 28) -> Any:
    """What prepares pictures for Qwen VL; it needs torchvision."""
    import transformers

    size = {"shortest_edge": 28 * 28, "longest_edge": most}
    return getattr(transformers, f"{version}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, patch_size=patch),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(size=size, patch_size=patch),
        chat_template=tokenizer.chat_template,
    )


def qwen3_vl(name: str = "Qwen3VLForConditionalGeneration", *, layers: int = 8, patch: int = 14) -> dict[str, Any]:
    import transformers

    tokenizer = chat_tokenizer()
    words = tokenizer.get_vocab()
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1000000.0}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen3VLConfig(
        text_config=language_config(tokenizer, num_hidden_layers=layers, rope_parameters=rope),
        vision_config={**vision, "patch_size": patch, "deepstack_visual_indexes": [0, 1]},
        image_token_id=words["<|image_pad|>"],
        video_token_id=words["<|video_pad|>"],
        vision_start_token_id=words["<|vision_start|>"],
        vision_end_token_id=words["<|vision_end|>"],
    )
    return {"tokenizer": tokenizer, "text_encoder": getattr(transformers, name)(config).eval()}


def clip_vision(size: int = 32, width: int = 32) -> Any:
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=size,
        patch_size=size // 2,
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def clip_images(size: int = 32) -> Any:
    import transformers

    return transformers.CLIPImageProcessor(crop_size=size, size={"shortest_edge": size})


def flow_vae(channels: int = 4) -> Any:
    """The VAE of Flux and its kin."""
    return image_vae(
        latent_channels=channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )


def unet(name: str = "UNet2DConditionModel", **config: Any) -> Any:
    usual = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return model(name, **{**usual, **config})
