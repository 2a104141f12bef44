"""Wan in the shape of 1.3 billion parameters, which stable-diffusion.cpp fixes, in files of 28 MB: tensors share bytes.

In the large ones every matrix is the start of one pool of random numbers, every bias zeros, every norm ones. What reads
them copies them, so a model takes 3 GB of memory all the same. Tried with 0.4.7; Python's safetensors refuses them.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np

from tests.support.sdcpp_models import Shapes, linear, random_tensors, save

WIDTH, INNER, BLOCKS = 1536, 8960, 30
TEXT, FREQUENCIES, LATENT = 4096, 256, 16
VISION_WIDTH, VISION_INNER, VISION_BLOCKS = 1280, 5120, 32


def write_wan_models(folder: Path) -> Path:
    """Write transformers of both tasks, the tiny autoencoder of both, and the vision encoder of image_to_video."""
    write_shared(wan_transformer(), folder / "text-to-video.safetensors")
    write_shared(wan_transformer(image=True), folder / "image-to-video.safetensors")
    save(random_tensors(tiny_video_autoencoder()), folder / "taehv.safetensors")
    write_shared(vision_encoder(), folder / "vision.safetensors")
    return folder


def wan_transformer(*, image: bool = False) -> Shapes:
    """Wan 2.1's; with `image` it takes a mask and the image's latents too, and looks at the vision encoder's output."""
    top = "model.diffusion_model."
    channels = LATENT + 4 + LATENT if image else LATENT
    shapes: Shapes = {
        top + "patch_embedding.weight": (WIDTH, channels, 1, 2, 2),
        top + "patch_embedding.bias": (WIDTH,),
    }
    for name, before in (("text", TEXT), ("time", FREQUENCIES)):
        linear(shapes, f"{top}{name}_embedding.0", before, WIDTH)
        linear(shapes, f"{top}{name}_embedding.2", WIDTH, WIDTH)
    linear(shapes, top + "time_projection.1", WIDTH, 6 * WIDTH)
    if image:
        norm(shapes, top + "img_emb.proj.0", VISION_WIDTH)
        linear(shapes, top + "img_emb.proj.1", VISION_WIDTH, VISION_WIDTH)
        linear(shapes, top + "img_emb.proj.3", VISION_WIDTH, WIDTH)
        norm(shapes, top + "img_emb.proj.4", WIDTH)
    for number in range(BLOCKS):
        block = f"{top}blocks.{number}."
        shapes[block + "modulation"] = (1, 6, WIDTH)
        for attention in ("self_attn", "cross_attn"):
            images = ("k_img", "v_img") if image and attention == "cross_attn" else ()
            for part in ("q", "k", "v", "o", *images):
                linear(shapes, f"{block}{attention}.{part}", WIDTH, WIDTH)
            for part in ("q", "k", *images[:1]):
                shapes[f"{block}{attention}.norm_{part}.weight"] = (WIDTH,)
        norm(shapes, block + "norm3", WIDTH)
        linear(shapes, block + "ffn.0", WIDTH, INNER)
        linear(shapes, block + "ffn.2", INNER, WIDTH)
    shapes[top + "head.modulation"] = (1, 2, WIDTH)
    linear(shapes, top + "head.head", WIDTH, 4 * LATENT)
    return shapes


def tiny_video_autoencoder() -> Shapes:
    """TAEHV; layers without weights keep their numbers."""
    shapes: Shapes = {}

    def convolution(name: str, before: int, after: int, kernel: int = 3, *, bias: bool = True) -> None:
        shapes[name + ".weight"] = (after, before, kernel, kernel)
        if bias:
            shapes[name + ".bias"] = (after,)

    def blocks(name: str, first: int, width: int) -> int:
        for number in range(first, first + 3):
            convolution(f"{name}.{number}.conv.0", 2 * width, width)
            convolution(f"{name}.{number}.conv.2", width, width)
            convolution(f"{name}.{number}.conv.4", width, width)
        return first + 3

    convolution("encoder.0", 3, 64)
    at = 2
    for frames in (2, 2, 1):
        convolution(f"encoder.{at}.conv", 64 * frames, 64, 1, bias=False)
        convolution(f"encoder.{at + 1}", 64, 64, bias=False)
        at = blocks("encoder", at + 2, 64)
    convolution(f"encoder.{at}", 64, LATENT)
    convolution("decoder.1", LATENT, 256)
    at = 3
    for width, after, frames in ((256, 128, 1), (128, 64, 2), (64, 64, 2)):
        at = blocks("decoder", at, width) + 1
        convolution(f"decoder.{at}.conv", width, width * frames, 1, bias=False)
        convolution(f"decoder.{at + 1}", width, after, bias=False)
        at += 2
    convolution(f"decoder.{at + 1}", 64, 3)
    return shapes


def vision_encoder() -> Shapes:
    """CLIP's ViT-H/14."""
    top = "vision_model."
    shapes: Shapes = {
        top + "embeddings.class_embedding": (VISION_WIDTH,),
        top + "embeddings.patch_embedding.weight": (VISION_WIDTH, 3, 14, 14),
        top + "embeddings.position_embedding.weight": (257, VISION_WIDTH),
        "visual_projection.weight": (1024, VISION_WIDTH),
    }
    for name in ("pre_layernorm", "post_layernorm"):
        norm(shapes, top + name, VISION_WIDTH)
    for number in range(VISION_BLOCKS):
        block = f"{top}encoder.layers.{number}."
        for part in ("q", "k", "v", "out"):
            linear(shapes, f"{block}self_attn.{part}_proj", VISION_WIDTH, VISION_WIDTH)
        for name in ("layer_norm1", "layer_norm2"):
            norm(shapes, block + name, VISION_WIDTH)
        linear(shapes, block + "mlp.fc1", VISION_WIDTH, VISION_INNER)
        linear(shapes, block + "mlp.fc2", VISION_INNER, VISION_WIDTH)
    return shapes


def norm(shapes: Shapes, name: str, width: int) -> None:
    shapes[name + ".weight"] = shapes[name + ".bias"] = (width,)


def write_shared(shapes: Shapes, file: Path) -> None:
    """Write a safetensors file whose tensors point into three pools."""
    largest = max(math.prod(shape) for shape in shapes.values())
    longest = max(math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    pools = {
        "random": (np.random.default_rng(0).standard_normal(largest, np.float32) * 0.02).astype(np.float16).tobytes(),
        "ones": np.ones(longest, np.float16).tobytes(),
        "zeros": bytes(2 * longest),
    }
    starts = dict(zip(pools, np.cumsum([0, *map(len, pools.values())]).tolist(), strict=False))
    header = {}
    for name, shape in shapes.items():
        start = starts["random" if len(shape) > 1 else "zeros" if name.endswith("bias") else "ones"]
        offsets = [start, start + 2 * math.prod(shape)]
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": offsets}
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(pools.values()))
