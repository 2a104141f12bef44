"""What pixels may depend on beside a run's spec and weights: software, machine and switches, as plain JSON values.

The driver's goes into `run.json`, each worker's into a file of its own (`environment_files`), because only a worker
knows its device; it says nothing of the host, the process or the time, so equal workers have one description.

Not covered: what a backend knows of its library and its device (`VisionBackend.environment`).
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from abstractvision_batch.job.backend_section import BACKEND_GROUP
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.version import __version__

#: Packages whose version can change pixels, or the bytes of plan, manifest and media.
RECORDED_PACKAGES = (
    "torch", "torchvision", "torchao", "triton", "diffusers", "transformers", "accelerate", "peft", "safetensors",
    "tokenizers", "sentencepiece", "ftfy", "huggingface_hub", "bitsandbytes", "xformers", "flash_attn", "sageattention",
    "kernels", "stable-diffusion-cpp-python", "httpx", "av", "numpy", "pillow", "pyarrow", "fsspec", "jinja2", "ray",
)  # fmt: skip
#: Environment variables that choose kernels or threads.
RECORDED_VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_NUM_THREADS",
    "PYTORCH_ENABLE_MPS_FALLBACK", "STABLE_DIFFUSION_CPP_LIB", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_GIT_TIMEOUT_S = 10


def describe_driver() -> dict[str, Any]:
    """The software, the machine and the working tree that a run was started from."""
    return {
        **describe_software(),
        **_describe_machine(),
        "host": socket.gethostname(),
        "argv": sys.argv[:1],
        "variables": _set_variables(),
        **_describe_working_tree(),
    }


def describe_worker(backend: Mapping[str, Any], weights: Weights | None) -> dict[str, Any]:
    """The software and the machine that generate, with what the loaded backend says of them (`environment()`)."""
    revisions = {} if weights is None else {part.name: part.revision for part in weights.parts if part.revision}
    return {
        **describe_software(),
        **_describe_machine(),
        "variables": _set_variables(),
        "backend": backend,
        "weights": None if weights is None else {"digest": weights.digest, "revisions": revisions},
    }


def differing_values(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Values that two descriptions do not share, as (dotted name, there, here); None where one says nothing."""
    for name in sorted({*there, *here}):
        one, other = there.get(name), here.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing_values(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name}", one, other


def describe_software() -> dict[str, Any]:
    """Versions of this package, of Python and of the packages that can change pixels."""
    return {
        "avbatch": __version__,
        "python": platform.python_version(),
        "packages": dict(_package_versions()),
        **({"backend_packages": dict(brought)} if (brought := _backend_packages()) else {}),
    }


def _describe_machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cpu_count": os.cpu_count(),
        "gpu_driver": _gpu_driver(),
    }


@cache
def _package_versions() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    # torch's wheels bring cuBLAS, cuDNN and others as packages of their own; the folder's name says which, where asking
    # each of the installed packages for its name takes half a second
    for folder in dict.fromkeys(sys.path):
        for info in Path(folder).glob("nvidia_*.dist-info"):
            name, _, number = info.stem.partition("-")
            found.setdefault(name.replace("_", "-"), number)
    return found


@cache
def _backend_packages() -> Mapping[str, str]:
    """Return name and version of the other packages that bring backends, by kind."""
    points = entry_points(group=BACKEND_GROUP)
    return {point.name: f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None}


def _set_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ}


def _gpu_driver() -> str | None:
    """Version of NVIDIA's kernel module; None where there is none."""
    try:
        text = _NVIDIA_DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return read_driver_version(text)


def read_driver_version(text: str) -> str | None:
    """The version in what the kernel module says of itself."""
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def _describe_working_tree() -> dict[str, Any]:
    """Commit of the current folder's working tree, and whether tracked files differ from it; None outside of one."""
    status = None if (commit := _git("rev-parse", "HEAD")) is None else _git("status", "--porcelain", "-uno")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    # without its optional lock: another git may be at work in that tree
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


_CPUINFO = Path("/proc/cpuinfo")


@cache
def processor_name() -> str:
    """The model as the system calls it (`AMD EPYC 9454`), or the architecture where it does not say."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
