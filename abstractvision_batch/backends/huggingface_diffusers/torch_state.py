"""What of PyTorch's state pixels depend on: device, libraries, threads, and the switches that choose kernels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from abstractvision_batch.runs.environment import processor_name


def repeats_exactly(device: torch.device, torch_compile: str) -> bool:
    """Whether another process computes the same bits: not where kernels are chosen by timing them, nor on Apple's GPUs.

    `torch.compile` times its reductions on a GPU in every mode, on a CPU only in `max-autotune`; for MPS, PyTorch
    promises nothing and nobody has measured it.
    """
    if device.type == "cuda":
        return torch_compile == "none" and not torch.backends.cudnn.benchmark
    return device.type == "cpu" and torch_compile != "max-autotune"


_PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


def describe_device(device: torch.device) -> dict[str, Any]:
    """The device by its model, and what kernels are chosen by."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "device_name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    return {"device_name": processor_name(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def describe_libraries() -> dict[str, Any]:
    """CUDA (or ROCm) and cuDNN that this PyTorch was built for; None where it has none."""
    cudnn: Any = torch.backends.cudnn  # partly untyped
    return {"cuda": torch.version.cuda, "hip": torch.version.hip, "cudnn": cudnn.version()}


@cache
def package_versions() -> Mapping[str, str]:
    """Versions of the packages that turn weights into pixels."""
    return {package: version(package) for package in _PACKAGES}


def describe_switches() -> dict[str, Any]:
    """Threads and switches of this process as they are now."""
    cuda: Any = torch.backends.cuda  # partly untyped
    cudnn, matmul = torch.backends.cudnn, cuda.matmul
    attention = {
        "flash": cuda.flash_sdp_enabled(),
        "memory_efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return {
        "torch_threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_tf32": cudnn.allow_tf32,
        "matmul_tf32": matmul.allow_tf32,
        "matmul_fp16_reduced_precision": matmul.allow_fp16_reduced_precision_reduction,
        "matmul_bf16_reduced_precision": matmul.allow_bf16_reduced_precision_reduction,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention": [name for name, enabled in attention.items() if enabled],
    }
