"""The encoder half of the VAE, whose weights are written down instead of trained.

The latent is defined as a thumbnail (`architecture.latents_of`), and a stock `AutoencoderKL` encoder can compute just
that. Each stride-2 convolution averages 2×2 pixels, and every residual branch is switched off. The closing group
normalisation would lose absolute colour; so each of red, green and blue shares a group with its own negative, which
makes the mean zero, and with a large constant and its negative, which makes the variance a constant. After it
`silu(v) - silu(-v)` is `v`. The variance of the latent distribution is as small as the class allows, so that drawing
from it and taking its mean are the same.

*Not covered:* the decoder, which has to invent the pixels that a thumbnail leaves open (`train_vae`).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from training.shapes64.architecture import LATENT_CHANNELS, LATENT_GAIN

COLOUR_CHANNELS = 3
# Large beside pixel values of -1 to 1, so that they move the variance by less than 0.1 %; small enough for float16.
CONSTANT = 32.0
# `AutoencoderKL` clips log-variances to this.
SMALLEST_LOG_VARIANCE = -30.0


@torch.no_grad()
def write_encoder(vae: AutoencoderKL) -> None:
    """Overwrite encoder and `quant_conv` so that they compute `latents_of` to within 0.1 %."""
    encoder = vae.encoder
    for weight in [*encoder.parameters(), *vae.quant_conv.parameters()]:
        nn.init.zeros_(weight)

    middle = (1, 1)
    for channel in range(COLOUR_CHANNELS):
        encoder.conv_in.weight[(channel, channel, *middle)] = 1.0
    blocks = list(encoder.down_blocks)
    for block in blocks:
        # Padded below and to the right only: taps 0 and 1 of the 3×3 kernel are the two pixels of each block.
        for downsampler in block.downsamplers or []:
            for channel in range(COLOUR_CHANNELS):
                downsampler.conv.weight[channel, channel, :2, :2] = 0.25
        shortcut = block.resnets[0].conv_shortcut
        if shortcut is not None and block is not blocks[-1]:
            for channel in range(COLOUR_CHANNELS):
                shortcut.weight[channel, channel] = 1.0

    norm = encoder.conv_norm_out
    width = norm.num_channels // norm.num_groups
    last = blocks[-1].resnets[0].conv_shortcut
    for channel in range(COLOUR_CHANNELS):
        plus, minus, high, low = (width * channel + place for place in range(4))
        last.weight[plus, channel] = 1.0
        last.weight[minus, channel] = -1.0
        last.bias[high], last.bias[low] = CONSTANT, -CONSTANT
        # The constants alone make the standard deviation of the group this.
        norm.weight[plus] = norm.weight[minus] = CONSTANT * (2 / width) ** 0.5
        encoder.conv_out.weight[(channel, plus, *middle)] = LATENT_GAIN
        encoder.conv_out.weight[(channel, minus, *middle)] = -LATENT_GAIN
    encoder.conv_out.bias[LATENT_CHANNELS:] = SMALLEST_LOG_VARIANCE
    for channel in range(2 * LATENT_CHANNELS):
        vae.quant_conv.weight[channel, channel] = 1.0
