"""Which files stable-diffusion.cpp loads: those that the configuration names, and a fixed few of a Diffusers folder.

Not covered: LoRAs that a prompt or a request's `extra` names; their hashes are in its row.
"""

from __future__ import annotations

from pathlib import Path

from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.registry.weights import Weights, WeightsPart, hash_part

#: Of a Diffusers folder the library reads these names alone.
_OF_A_FOLDER = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
)


def describe_weights(config: StableDiffusionCppBackendConfig) -> Weights:
    """Hash the files of the model and of the configuration's LoRAs.

    Raises:
        DependencyError: one is not there.
    """
    named = config.weights() | {f"lora {number}": lora.source for number, lora in enumerate(config.loras, 1)}
    return Weights(tuple(_describe(name, source, config.cwd) for name, source in named.items()))


def _describe(name: str, source: str, cwd: str | None) -> WeightsPart:
    path = Path(cwd or "") / Path(source).expanduser()
    if path.is_dir():
        return hash_part(name, source, path, [file for part in _OF_A_FOLDER if (file := path / part).is_file()])
    if not path.is_file():
        raise DependencyError(f"{name}: {path} is not there (download it, or name another file)")
    return hash_part(name, source, path.parent, [path])
