"""What makes a denoiser smaller or faster at the price of other pixels: quantisation, attention kernels, compilation.

Not covered: offloading and slicing, which are the pipeline's (`loading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.locate import CHECKPOINTS, DENOISERS
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, OptionalDependencyMissingError

_PACKAGES = {"int8": "torchao", "float8": "torchao", "nf4": "bitsandbytes"}


def check_quantization(config: HuggingFaceDiffusersBackendConfig, device: Any) -> None:
    """Check that weights can be made smaller as asked, before they are read.

    Raises:
        OptionalDependencyMissingError: the package that does it is not installed.
        CapabilityNotSupportedError: it cannot on this device, or not from a checkpoint.
    """
    package = _PACKAGES.get(config.quantization)
    if package is None:
        return
    if config.path is not None and config.path.endswith(CHECKPOINTS):
        raise CapabilityNotSupportedError("backend.quantization: not of a checkpoint (give the model's folder)")
    if find_spec(package) is None:
        raise OptionalDependencyMissingError(
            f"backend.quantization: {config.quantization}: not installed: {package} (pip install {package})"
        )
    if config.quantization == "nf4" and device.type == "cpu":
        raise CapabilityNotSupportedError(
            "backend.quantization: nf4 needs a GPU, the device is the CPU (int8 runs on both)"
        )


def quantization_of(config: HuggingFaceDiffusersBackendConfig, dtype: Any) -> Any:
    """Return Diffusers' configuration of one quantised component; None where weights stay as they are."""
    if not config.quantized:
        return None
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if config.quantization == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    schemes = import_module("torchao.quantization")
    return TorchAoConfig(getattr(schemes, f"{config.quantization.capitalize()}WeightOnlyConfig")())


def quantize_pipeline(config: HuggingFaceDiffusersBackendConfig, names: Sequence[str], dtype: Any) -> dict[str, Any]:
    """Return the argument of `from_pretrained` that quantises the denoisers among a pipeline's components."""
    quantization = quantization_of(config, dtype)
    if quantization is None:
        return {}
    from diffusers import PipelineQuantizationConfig

    mapping = {name: quantization for name in DENOISERS if name in names}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def tune(denoiser: Any, config: HuggingFaceDiffusersBackendConfig) -> None:
    """Choose attention kernels and compile, where asked.

    Raises:
        CapabilityNotSupportedError: Diffusers or this denoiser knows no such attention.
        DependencyError: the attention's package is not installed.
    """
    if config.attention_backend is not None:
        _set_attention(denoiser, config.attention_backend, config.allow_download)
    if config.torch_compile != "none":
        denoiser.compile(mode=config.torch_compile)  # in place: its class and attributes stay


def _set_attention(denoiser: Any, name: str, allow_download: bool) -> None:
    names = sorted(backend.value for backend in AttentionBackendName)
    if name not in names:
        raise CapabilityNotSupportedError(f"backend.attention_backend: {name} is not one of {', '.join(names)}")
    if name.endswith("_hub") and not allow_download:
        raise DependencyError(f"backend.attention_backend: {name} fetches its kernels (set allow_download: true)")
    chooses = (getattr(module, "processor", None) for module in denoiser.modules())
    if not any(hasattr(processor, "_attention_backend") for processor in chooses):
        raise CapabilityNotSupportedError(
            f"backend.attention_backend: the attention of {type(denoiser).__name__} cannot be chosen (leave it out)"
        )
    try:
        # It also sets the process's default, for every other model; the context gives the old one back.
        with attention_backend("native"):
            denoiser.set_attention_backend(name)
    except (RuntimeError, ImportError) as exc:
        raise DependencyError(f"backend.attention_backend: {exc}") from exc
