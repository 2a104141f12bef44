"""Trains shapes64 from nothing to a Diffusers folder: the one command.

    python -m training.shapes64.train --work /tmp/shapes64 --out model --processes 2
    python -m training.shapes64.train --work /tmp/shapes64 --out model --device cuda

`--work` holds what the stages leave for each other. A stage whose result is there is not run again, and the UNet goes
on from its checkpoint, so after a stop the same command resumes. `--init` continues from the weights of a finished
model, whose text encoder is kept.

*Not covered:* the measuring (`evaluate`), whose figures belong in the model card.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
from pathlib import Path

from training.shapes64.architecture import build_text_encoder, write_tokenizer
from training.shapes64.export import export_model
from training.shapes64.train_unet import UnetTraining, train_unet
from training.shapes64.train_vae import train_vae

logger = logging.getLogger(__name__)


def prepare_text(work: Path, init: Path | None, seed: int) -> None:
    """Put tokenizer and text encoder into `work`: those of `init`, or new ones."""
    if init is not None:
        for part in ("tokenizer", "text_encoder"):
            shutil.copytree(init / part, work / part, dirs_exist_ok=True)
        return
    tokenizer = write_tokenizer(work / "tokenizer")
    build_text_encoder(tokenizer, seed).save_pretrained(work / "text_encoder")


def main() -> None:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, outside the checkout")
    parser.add_argument("--out", type=Path, required=True, help="Diffusers folder to write")
    parser.add_argument("--init", type=Path, help="Diffusers folder to continue from")
    parser.add_argument("--samples", type=int, default=500_000, help="of the UNet, in all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of the UNet, in all; whichever ends first")
    parser.add_argument("--vae-samples", type=int, default=40_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of the UNet, on the CPU")
    parser.add_argument("--batch", type=int, default=32, help="samples per step and process")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "text_encoder").exists():
        prepare_text(options.work, options.init, options.seed)
    if not (options.work / "vae.pt").exists():
        train_vae(
            options.work,
            init=options.init,
            samples=options.vae_samples,
            device=options.device,
            threads=options.processes,
            seed=options.seed,
        )
    train_unet(
        UnetTraining(
            work=options.work,
            init=options.init,
            samples=options.samples,
            minutes=options.minutes,
            processes=1 if options.device == "cuda" else options.processes,
            batch=options.batch,
            device=options.device,
            seed=options.seed,
        )
    )
    logger.info("%s: %d bytes", options.out, export_model(options.work, options.out))


if __name__ == "__main__":
    main()
