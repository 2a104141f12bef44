"""Tiny random models in the names that stable-diffusion.cpp reads: what a real run of it needs, in a second.

The smallest shape that the library takes whole: OVIS-Image (a FLUX-like transformer and a Qwen3 text encoder), 12
million parameters, with the tiny autoencoder TAEF1, 2.5 million.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from abstractvision_batch.backends import StableDiffusionCppBackendConfig

MODES = ("cli", "server", "python")
HIDDEN, HEAD, CONTEXT = 128, 128, 64

Shapes = dict[str, tuple[int, ...]]
Tensors = dict[str, npt.NDArray[Any]]


def built_programs() -> Path | None:
    """The folder with sd-cli and sd-server: where scripts/build_sdcpp.sh puts them, else on PATH."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "avbatch" / "sdcpp-0.4.7" / "bin"
    if (folder / "sd-server").exists():
        return folder
    found = shutil.which("sd-server")
    return Path(found).parent if found and shutil.which("sd-cli") else None


def config_for(mode: str, models: Path, **changes: Any) -> StableDiffusionCppBackendConfig:
    """The tiny model in one mode; skips where that is not installed."""
    programs = built_programs()
    if mode == "python" and find_spec("stable_diffusion_cpp") is None:
        pytest.skip("the package stable_diffusion_cpp is not installed (scripts/build_sdcpp.sh --install)")
    if mode != "python" and programs is None:
        pytest.skip("sd-cli and sd-server are not built (scripts/build_sdcpp.sh)")
    fields: dict[str, Any] = {
        "sd_cli_path": str(programs / "sd-cli") if programs else "sd-cli",
        "model": str(models / "ovis.safetensors"),
        "taesd": str(models / "taef1.safetensors"),
        "mode": mode,
        "n_threads": 1,
        "timeout_s": 120.0,
    }
    return StableDiffusionCppBackendConfig(**(fields | changes))


def transformer(*, context: int = CONTEXT, pooled: bool = False) -> Shapes:
    """One double and one single block; gated as OVIS has it, or plain as FLUX has it with `pooled` CLIP."""
    shapes: Shapes = {}
    top = "model.diffusion_model."
    linear(shapes, top + "img_in", 64, HIDDEN)
    linear(shapes, top + "txt_in", context, HIDDEN)
    for name, inner in (("time_in", 256), *((("vector_in", 768),) if pooled else ())):
        linear(shapes, f"{top}{name}.in_layer", inner, HIDDEN)
        linear(shapes, f"{top}{name}.out_layer", HIDDEN, HIDDEN)
    if not pooled:
        shapes[top + "txt_norm.scale"] = (context,)
    for side in ("img", "txt"):
        block = f"{top}double_blocks.0.{side}_"
        linear(shapes, block + "mod.lin", HIDDEN, 6 * HIDDEN)
        linear(shapes, block + "attn.qkv", HIDDEN, 3 * HIDDEN)
        linear(shapes, block + "attn.proj", HIDDEN, HIDDEN)
        shapes[block + "attn.norm.query_norm.scale"] = shapes[block + "attn.norm.key_norm.scale"] = (HEAD,)
        widths = {"0": (1, 4), "2": (4, 1)} if pooled else {"gate_proj": (1, 4), "up_proj": (1, 4), "down_proj": (4, 1)}
        for name, (before, after) in widths.items():
            linear(shapes, f"{block}mlp.{name}", before * HIDDEN, after * HIDDEN)
    block = f"{top}single_blocks.0."
    linear(shapes, block + "linear1", HIDDEN, (7 if pooled else 11) * HIDDEN)
    linear(shapes, block + "linear2", 5 * HIDDEN, HIDDEN)
    linear(shapes, block + "modulation.lin", HIDDEN, 3 * HIDDEN)
    shapes[block + "norm.query_norm.scale"] = shapes[block + "norm.key_norm.scale"] = (HEAD,)
    linear(shapes, top + "final_layer.linear", HIDDEN, 64)
    linear(shapes, top + "final_layer.adaLN_modulation.1", HIDDEN, 2 * HIDDEN)
    return shapes


def language_model(vocabulary: int = 151936, heads: int = 32, key_heads: int = 8, inner: int = 128) -> Shapes:
    """One layer of Qwen3."""
    top = "text_encoders.llm.model."
    layer = top + "layers.0."
    shapes: Shapes = {top + "embed_tokens.weight": (vocabulary, CONTEXT), top + "norm.weight": (CONTEXT,)}
    for name, count in (("q", heads), ("k", key_heads), ("v", key_heads)):
        shapes[f"{layer}self_attn.{name}_proj.weight"] = (count * HEAD, CONTEXT)
    shapes[layer + "self_attn.o_proj.weight"] = (CONTEXT, heads * HEAD)
    shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = (HEAD,)
    shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = (inner, CONTEXT)
    shapes[layer + "mlp.down_proj.weight"] = (CONTEXT, inner)
    shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = (CONTEXT,)
    return shapes


def tiny_autoencoder(latent: int = 16, width: int = 64) -> Shapes:
    """TAEF1: three times down, three times up; layers without weights keep their numbers."""
    shapes: Shapes = {}

    def convolution(name: str, before: int, after: int, *, bias: bool = True) -> None:
        shapes[name + ".weight"] = (after, before, 3, 3)
        if bias:
            shapes[name + ".bias"] = (after,)

    def block(name: str) -> None:
        for layer in (0, 2, 4):
            convolution(f"{name}.conv.{layer}", width, width)

    convolution("encoder.layers.0", 3, width)
    block("encoder.layers.1")
    for start in (2, 6, 10):
        convolution(f"encoder.layers.{start}", width, width, bias=False)
        for layer in range(start + 1, start + 4):
            block(f"encoder.layers.{layer}")
    convolution("encoder.layers.14", width, latent)
    convolution("decoder.layers.0", latent, width)
    for start in (2, 7, 12):
        for layer in range(start, start + 3):
            block(f"decoder.layers.{layer}")
        convolution(f"decoder.layers.{start + 4}", width, width, bias=False)
    block("decoder.layers.17")
    convolution("decoder.layers.18", width, 3)
    return shapes


def linear(shapes: Shapes, name: str, before: int, after: int) -> None:
    shapes[name + ".weight"], shapes[name + ".bias"] = (after, before), (after,)


def random_tensors(shapes: Shapes, seed: int = 0) -> Tensors:
    """Weights that keep activations near one: scaled by fan-in, norms at one, biases at zero."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float16)
        else:
            scale = 0.02 if "embed" in name else float(np.prod(shape[1:])) ** -0.5
            tensors[name] = (random.standard_normal(shape, np.float32) * scale).astype(np.float16)
    if "decoder.layers.18.bias" in tensors:  # mid-grey, so that few pixels clip
        tensors["decoder.layers.18.bias"][:] = 0.5
    return tensors


def lora_tensors(seed: int = 0, rank: int = 4) -> Tensors:
    """An adapter of two layers of the transformer."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for layer, before in (("double_blocks.0.img_attn.proj", HIDDEN), ("single_blocks.0.linear2", 5 * HIDDEN)):
        for part, shape in (("lora_A", (rank, before)), ("lora_B", (HIDDEN, rank))):
            values = random.standard_normal(shape, np.float32) * 0.2
            tensors[f"diffusion_model.{layer}.{part}.weight"] = values.astype(np.float16)
    return tensors


def save(tensors: Tensors, file: Path) -> Path:
    from safetensors.numpy import save_file

    save_file(tensors, file)
    return file


def write_models(folder: Path) -> Path:
    """Write the model, its autoencoder and a folder with one LoRA."""
    save(random_tensors(transformer() | language_model()), folder / "ovis.safetensors")
    save(random_tensors(tiny_autoencoder()), folder / "taef1.safetensors")
    (folder / "loras").mkdir()
    save(lora_tensors(), folder / "loras" / "style.safetensors")
    return folder
