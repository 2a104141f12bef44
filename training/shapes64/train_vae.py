"""Trains the decoder half of the VAE: from the 16×16 thumbnail back to 64×64 pixels with sharp outlines.

    python -m training.shapes64.train_vae --work DIR --samples 40000

The input is the latent as it is defined, not as an encoder says (`encoder` writes one that agrees), with noise added,
because what the UNet makes is never exact. The loss weighs the pixels along outlines more: they are few, and they
decide whether a small triangle is one.

*Not covered:* resuming. The stage takes minutes; `--init` continues from finished weights.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from training.shapes64.architecture import build_vae, latents_of
from training.shapes64.encoder import write_encoder
from training.shapes64.grammar import TRAINED
from training.shapes64.render import draw_batch

LEARNING_RATE = 2e-3
WARMUP_STEPS = 40
HOLD = 0.4  # share of the training before the learning rate starts to fall
LATENT_NOISE = 0.2  # standard deviation, at most; latents have about 1
OUTLINE_WEIGHT = 4.0

logger = logging.getLogger(__name__)


def outline_weights(images: torch.Tensor) -> torch.Tensor:
    """Weight of each pixel in the loss: 1 on plain areas, up to 5 beside outlines; `(n, 1, 64, 64)`."""
    brightest = functional.max_pool2d(images, 3, stride=1, padding=1)
    darkest = -functional.max_pool2d(-images, 3, stride=1, padding=1)
    return 1 + OUTLINE_WEIGHT * (brightest - darkest).amax(1, keepdim=True).clamp(max=1.0)


def decoder_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error of pixels and of the steps between neighbours, weighed along outlines."""
    weights, error = outline_weights(images), decoded - images
    pixels = (weights * (error.abs() + error.square())).mean()
    across = (error[..., 1:] - error[..., :-1]).abs() * weights[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weights[..., 1:, :]
    return pixels + 0.5 * (across.mean() + down.mean())


def train_vae(
    work: Path,
    *,
    init: Path | None = None,
    samples: int = 40_000,
    batch: int = 16,
    device: str = "cpu",
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Write the encoder, train the decoder and save the weights of both as `work / "vae.pt"`."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    vae = build_vae() if init is None else AutoencoderKL.from_pretrained(init / "vae").float()
    write_encoder(vae)
    vae.to(device)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, foreach=True)
    rng = random.Random(seed)
    steps, start = samples // batch, time.monotonic()
    for step in range(steps):
        falling = max(0.0, step / steps - HOLD) / (1 - HOLD)
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / WARMUP_STEPS)
            group["lr"] = LEARNING_RATE * rise * (0.5 + 0.5 * math.cos(math.pi * falling)) + 1e-5
        images = draw_batch(batch, rng, TRAINED)[0].to(device)
        latents = latents_of(images)
        spread = LATENT_NOISE * torch.rand(batch, 1, 1, 1, device=device)
        decoded = vae.decode(latents + spread * torch.randn_like(latents)).sample
        loss = decoder_loss(decoded, images)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            decibels = 10 * math.log10(4 / functional.mse_loss(decoded, images).item())
            seconds = time.monotonic() - start
            logger.info("step %d of %d loss %.4f %.1f dB %.0f s", step, steps, loss.item(), decibels, seconds)
    torch.save(vae.cpu().state_dict(), work / "vae.pt")


def load_vae(weights: Path) -> AutoencoderKL:
    """The autoencoder that `train_vae` saved."""
    vae = build_vae()
    vae.load_state_dict(torch.load(weights))
    return vae.eval()


def main() -> None:
    """Command line of this stage alone; `train` runs all of them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    train_vae(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
