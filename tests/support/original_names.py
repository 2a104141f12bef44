"""A tiny Stable Diffusion as one file with the names that its authors gave the weights: what people share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def checkpoint_of(pipeline: Any) -> dict[str, Any]:
    """Return every weight of a Stable Diffusion 1 pipeline under its original name."""
    layers = pipeline.unet.config.layers_per_block
    up_blocks = pipeline.unet.up_blocks
    levels = len(pipeline.vae.config.block_out_channels)
    weights = {
        "model.diffusion_model." + _unet_name(name, layers, up_blocks): value
        for name, value in pipeline.unet.state_dict().items()
    }
    for name, value in pipeline.vae.state_dict().items():
        original = _vae_name(name, levels)
        attends = re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", original)
        weights[f"first_stage_model.{original}"] = value[:, :, None, None] if attends else value
    for name, value in pipeline.text_encoder.state_dict().items():
        stem = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[f"cond_stage_model.transformer.{stem}"] = value
    return {name: value.contiguous() for name, value in weights.items()}


def _unet_name(name: str, layers: int, up_blocks: Any) -> str:
    def down(found: re.Match[str]) -> str:
        block, kind, layer = int(found[1]), found[2], int(found[3] or 0)
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op"
        return f"input_blocks.{(layers + 1) * block + layer + 1}.{int(kind == 'attentions')}"

    def up(found: re.Match[str]) -> str:
        block, kind, layer = int(found[1]), found[2], int(found[3] or 0)
        if kind == "upsamplers":
            place = 2 if hasattr(up_blocks[block], "attentions") else 1
            return f"output_blocks.{(layers + 1) * block + layers}.{place}.conv"
        return f"output_blocks.{(layers + 1) * block + layer}.{int(kind == 'attentions')}"

    part = r"(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.conv(?=\.))?"
    original = re.sub(rf"down_blocks\.(\d+)\.{part}", down, name)
    original = re.sub(rf"up_blocks\.(\d+)\.{part}", up, original)
    original = _renamed(original, _UNET)
    return _renamed(original, _RESNET) if ".attentions" not in name else original


def _vae_name(name: str, levels: int) -> str:
    original = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    original = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", original)
    turned = {str(block): str(levels - 1 - block) for block in range(levels)}
    original = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{turned[found[1]]}.block.", original)
    original = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{turned[found[1]]}.upsample", original)
    return _renamed(original, _VAE)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for ours, original in names.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", rf"\g<1>{original}", name)
    return name
