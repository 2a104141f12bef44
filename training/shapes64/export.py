"""Writes a trained model as a Diffusers folder in float16 (the text encoder in float32), ready for `from_pretrained`.

    python -m training.shapes64.export --work DIR --out abstractvision_batch/models/shapes64

The folder names only stock classes, so it needs no code of this repository. What else lies in it, such as its model
card, is left alone.

*Not covered:* the hub, ONNX, a pickled checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from training.shapes64.architecture import build_scheduler, write_tokenizer
from training.shapes64.train_unet import load_average
from training.shapes64.train_vae import load_vae


def export_model(work: Path, out: Path) -> int:
    """Gather the parts in `work` into a Diffusers folder; returns its size in bytes."""
    pipeline = StableDiffusionPipeline(
        vae=load_vae(work / "vae.pt").half(),
        # In float32, 190 kB more: transformers 5 loads what the file holds and diffusers loads float32, and without a
        # dtype from the user the two must agree.
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder").float(),
        tokenizer=write_tokenizer(out / "tokenizer"),
        unet=load_average(work / "unet.pt").half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    # The pipeline saves only the newer tokenizer file; older releases of transformers read the other two.
    write_tokenizer(out / "tokenizer")
    files = [path for path in out.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    return sum(path.stat().st_size for path in files)


def main() -> None:
    """Command line of this stage alone; `train` runs all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(f"{options.out}: {export_model(options.work, options.out):,} bytes")


if __name__ == "__main__":
    main()
