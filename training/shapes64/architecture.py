"""The parts of shapes64, all of stock diffusers and transformers classes.

- Tokenizer: byte-pair merges built from the grammar, so that each of its words is exactly one token.
- Text encoder: a small CLIP with random weights that are never trained. Its embeddings keep all words equally far
  apart; trained together with the UNet on this little data it merges left with right and circle with square.
- VAE: the latent is defined rather than learned, a 16×16 thumbnail of the image; see `encoder`.
- UNet: 1.9 M parameters, cross-attention at 8×8 and 4×4, weights of every residual branch starting at zero.

*Not covered:* training (`train_vae`, `train_unet`) and the folder (`export`).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.shapes64.grammar import IMAGE_SIDE, grammar_words

MAX_TOKENS = 16
TEXT_WIDTH = 64
THUMBNAIL_FACTOR = 4
LATENT_SIDE = IMAGE_SIDE // THUMBNAIL_FACTOR
LATENT_CHANNELS = 4  # what the stock inpainting pipeline asks for; the fourth is always zero
LATENT_GAIN = 1.3  # brings the latents near unit variance
END_OF_WORD = "</w>"


def latents_of(images: torch.Tensor) -> torch.Tensor:
    """The definition of the latent: `(n, 3, 64, 64)` from -1 to 1 gives `(n, 4, 16, 16)`.

    Three channels are the mean colour of each 4×4 block, times 1.3; the fourth is zero.
    """
    thumbnail = LATENT_GAIN * functional.avg_pool2d(images, THUMBNAIL_FACTOR)
    return functional.pad(thumbnail, (0, 0, 0, 0, 0, LATENT_CHANNELS - thumbnail.shape[1]))


def merge_words(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one piece."""
    pieces = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in pieces.values() for pair in itertools.pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, parts in pieces.items():
            merged: list[str] = []
            for part in parts:
                # A part that was merged away is never the left half again: it was replaced by the longer piece.
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            pieces[word] = merged
    return merges


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer of the grammar's letters, pieces and words, with the files of both library generations."""
    words = grammar_words()
    letters = sorted(set("".join(words)))
    merges = merge_words(words)
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    """The random text encoder; the same for the same seed and tokenizer."""
    torch.manual_seed(seed)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # The library's own 0.02 would make all words nearly the same vector.
    for name, weight in encoder.named_parameters():
        if "token_embedding" in name:
            nn.init.normal_(weight, std=1.0)
        elif "position_embedding" in name:
            nn.init.normal_(weight, std=0.5)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_prompts(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: Sequence[str]) -> torch.Tensor:
    """What the UNet sees of each prompt: `(n, 16, 64)`, as the stock pipeline computes it."""
    ids = tokenizer(list(prompts), padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    hidden: torch.Tensor = encoder(ids)[0]
    return hidden


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder of the shipped shape: 64×64 RGB to 16×16×4."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet whose residual branches and output start at zero, so that it begins as the identity."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 64, 64),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=128,
        # The whole prompt also enters beside the time step, not only through attention.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Transformer2DModel):
            _zero(module.proj_out)
    _zero(unet.conv_out)
    return unet


def _zero(layer: nn.Module) -> None:
    for weight in layer.parameters():
        nn.init.zeros_(weight)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of training and the default sampler: cosine, v-prediction, no clipping of latents."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
