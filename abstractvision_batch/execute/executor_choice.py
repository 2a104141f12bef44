"""Choose what runs the shards of a job, as `execution.executor: auto` leaves it to the machine; and say why.

    the address of a cluster → ray; more than one GPU here that the job can use, and Ray installed → ray; else inline

GPUs are counted without importing Torch: those that the driver lists, less those that `CUDA_VISIBLE_DEVICES` and its
like hide. Pixels are the same either way. Not covered: whether the cluster answers, which joining it finds out.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from abstractvision_batch.execute.ray.address import ADDRESS
from abstractvision_batch.job.model import ExecutionSpec, JobSpec

INSTALL_RAY = 'pip install "abstractvision_batch[ray]"'
NVIDIA_FILES = Path("/proc/driver/nvidia/gpus")
AMD_FILES = Path("/sys/class/kfd/kfd/topology/nodes")
_ASK_TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """What runs shards, and why."""

    executor: Literal["inline", "ray"]
    why: str

    def __str__(self) -> str:
        return f"{self.executor} ({self.why})"


INLINE = ExecutorChoice("inline", "nothing else was chosen")


def choose_executor(*specs: JobSpec) -> ExecutorChoice:
    """Return what runs the shards of a job on this machine, in this environment: Ray, if one of its variants wants it.

    Args:
        specs: Of its variants, of which there is one at least.
    """
    choices = [_choose(spec) for spec in specs]
    return next((choice for choice in choices if choice.executor == "ray"), choices[0])


def _choose(spec: JobSpec) -> ExecutorChoice:
    execution = spec.execution
    if execution.executor != "auto":
        return ExecutorChoice(execution.executor, "execution.executor says so")
    if (given := _who_names_a_cluster(execution)) is not None:
        return ExecutorChoice("ray", f"{given} is set")
    if not uses_gpu(spec):
        return ExecutorChoice("inline", "the job asks for no GPU")
    if device := spec.backend.pinned_device:
        return ExecutorChoice("inline", f"backend.device is {device}")
    gpus = count_gpus()
    if gpus < 2:
        return ExecutorChoice("inline", "one GPU here" if gpus else "no GPU here")
    if find_spec("ray") is None:
        return ExecutorChoice("inline", f"{gpus} GPUs here, but Ray is not installed: {INSTALL_RAY}")
    return ExecutorChoice("ray", f"{gpus} GPUs here")


def _who_names_a_cluster(execution: ExecutionSpec) -> str | None:
    if execution.address is not None:
        return "execution.address"
    return ADDRESS if os.environ.get(ADDRESS) else None


def uses_gpu(spec: JobSpec) -> bool:
    """Return whether the job's workers want a GPU, as far as the spec says."""
    wanted = spec.execution.gpus_per_actor
    if wanted != "auto":
        return wanted > 0
    if spec.execution.accelerator_type is not None:
        return True
    return spec.backend.wants_gpu(found=True)


def count_gpus() -> int:
    """Count the GPUs that a process started here may use: NVIDIA's, else AMD's; Apple's is one."""
    if sys.platform == "darwin":
        return int(platform.machine() == "arm64")
    if nvidia := _count_nvidia(shutil.which("nvidia-smi"), NVIDIA_FILES):
        return _count_visible(nvidia, ("CUDA_VISIBLE_DEVICES",))
    return _count_visible(_count_amd(), ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))


@cache
def _count_nvidia(program: str | None, files: Path) -> int:
    """Count what `nvidia-smi --list-gpus` names; where there is no such program, what the driver has files of."""
    if program is None:
        return len(list(files.iterdir())) if files.is_dir() else 0
    try:
        done = subprocess.run(
            [program, "--list-gpus"], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0  # a driver that does not work runs no job either
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())  # parts of one (MIG) are indented


def _count_amd() -> int:
    """Count the nodes of AMD's compute driver that have SIMD units: the others are CPUs."""
    found = 0
    for path in AMD_FILES.glob("*/properties"):
        words = path.read_text(encoding="utf-8", errors="replace").split()
        found += dict(zip(words[::2], words[1::2], strict=False)).get("simd_count", "0") != "0"
    return found


def _count_visible(gpus: int, variables: Sequence[str]) -> int:
    """Count those of so many GPUs that the environment leaves visible; a list ends at its first entry that is none."""
    for name in variables:
        if (listed := os.environ.get(name)) is None:
            continue
        visible = 0
        for entry in (entry.strip() for entry in listed.split(",")):
            if not entry or entry.startswith("-") or (entry.isdecimal() and int(entry) >= gpus):
                break
            visible += 1
        gpus = min(gpus, visible)
    return gpus
