"""LoRA adapters beside the base weights: loaded once, switched per forward pass, never fused.

Fusing would add them into the weights, and subtracting them again does not give the old weights back to the bit.

Not covered: which request wants which adapters (`prepare`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.loading import LOAD_ERRORS, quiet, short
from abstractvision_batch.backends.huggingface_diffusers.locate import find_lora
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError


def activate_loras(
    pipeline: Any,
    adapters: tuple[LoraAdapter, ...],
    config: HuggingFaceDiffusersBackendConfig,
    *,
    beside: str | None = None,
) -> None:
    """Let exactly `adapters` act on the pipeline's components; none leaves the base model as it was loaded.

    Args:
        pipeline: The pipeline, with the components that the next pass runs.
        adapters: What acts.
        config: Where adapters may come from.
        beside: Which denoiser is in the pipeline, if not the model's own: an adapter's layers belong to one of them.

    Raises:
        DependencyError: an adapter is absent, damaged or made for another model.
        CapabilityNotSupportedError: the pipeline takes no adapters.
    """
    if not adapters and not _loaded(pipeline):
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise CapabilityNotSupportedError(f"loras: {type(pipeline).__name__} takes no LoRA adapters")
    with quiet():
        if not adapters:
            pipeline.disable_lora()
            return
        scales: dict[str, float] = {}
        for adapter in adapters:
            folder, weight_name = find_lora(adapter, config)
            name = _name(folder, weight_name, beside)
            if name not in _loaded(pipeline):
                _load(pipeline, adapter, folder, weight_name, name)
            scales[name] = scales.get(name, 0.0) + adapter.scale
        pipeline.enable_lora()
        pipeline.set_adapters(list(scales), adapter_weights=list(scales.values()))


def _load(pipeline: Any, adapter: LoraAdapter, folder: Path, weight_name: str, name: str) -> None:
    try:
        pipeline.load_lora_weights(str(folder), weight_name=weight_name, adapter_name=name, local_files_only=True)
    except LOAD_ERRORS as exc:
        if name in _loaded(pipeline):
            pipeline.delete_adapters(name)  # half an adapter would act on every later request
        raise DependencyError(
            f"lora {adapter.source}: {weight_name} does not load into {type(pipeline).__name__}: {short(exc)}"
        ) from exc
    if name not in _loaded(pipeline):
        raise DependencyError(f"lora {adapter.source}: {weight_name} fits no layer of {type(pipeline).__name__}")


def _loaded(pipeline: Any) -> set[str]:
    if not hasattr(pipeline, "get_list_adapters"):
        return set()
    return {name for names in pipeline.get_list_adapters().values() for name in names}


def _name(folder: Path, weight_name: str, beside: str | None) -> str:
    """An adapter's name says which file it is, also after the file was replaced, and whose layers it has."""
    path = folder / weight_name
    state = path.stat()
    key = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}" + (f"\0{beside}" if beside else "")
    return "lora_" + hashlib.sha256(key.encode()).hexdigest()[:12]
