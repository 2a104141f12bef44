"""How large GPUs are, and which share of one a worker needs: from the model card's memory and the GPU's size.

A share is 1/k where k workers fit side by side. Each needs its weights (what a card's `memory_bytes` counts), room for
activations and a CUDA context of its own; how much that is, is below. GPUs are asked by `nvidia-smi` on their nodes;
where that is not to be had, Ray's name of the accelerator says how large such GPUs are at least.

Not covered: which nodes there are and how they are asked (`ray_cluster`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from types import MappingProxyType

from abstractvision_batch.execute.context import RunContext

GIB = 2**30
#: What stands before the kind of a node's accelerators in the names of its resources.
ACCELERATOR = "accelerator_type:"
#: More workers on one GPU compute little more together, and each costs a copy of the weights.
MAX_WORKERS = 4
#: A CUDA context with PyTorch's and cuDNN's kernels takes 0.4 to 0.8 GiB of a recent GPU.
CONTEXT_BYTES = 1 * GIB
#: Activations of a batch at a megapixel. The VAE's decoder needs the most: 2 to 3 GiB a picture of 1024² in float16.
MIN_ACTIVATIONS_BYTES = 4 * GIB
#: Larger models have wider activations, and keep caches of text encoders: at least this share of the weights.
ACTIVATIONS_SHARE = 0.25
_ASK_TIMEOUT_S = 15

#: GB (1e9 bytes) of one GPU, by Ray's names; of the smallest there is where a name has several sizes.
#: Sources: NVIDIA's and AMD's data sheets of each product, as https://www.nvidia.com/en-us/data-center/h200/ and
#: https://www.amd.com/en/products/accelerators/instinct.html; names: ray.util.accelerators of Ray 2.60.
KNOWN_GB: Mapping[str, int] = MappingProxyType(
    {
        "K80": 12, "P4": 8, "P100": 12, "V100": 16, "T4": 16, "A10G": 24, "L4": 24, "L40S": 48,
        "A100": 40, "A100-40G": 40, "A100-80G": 80, "H20": 96, "H100": 80, "H200": 141, "RTX-PRO-6000": 96,
        "AMD-Instinct-MI100": 32, "AMD-Instinct-MI210": 64, "AMD-Instinct-MI250X-MI250": 64, "AMD-Instinct-MI250X": 64,
        "AMD-Instinct-MI300A": 128, "AMD-Instinct-MI300X-OAM": 192, "AMD-Instinct-MI300X-HF": 192,
        "AMD-Instinct-MI325X-OAM": 256, "AMD-Instinct-MI350X-OAM": 288, "AMD-Instinct-MI355X-OAM": 288,
    }
)  # fmt: skip


def smallest_gpu_bytes() -> int | None:
    """Memory of this machine's smallest NVIDIA GPU; None where nothing says."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    sizes = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return min(sizes) * 2**20 if sizes else None


def known_gpu_bytes(resources: Mapping[str, float]) -> int | None:
    """Memory of a node's GPUs by what Ray calls them; None where it does not, or the name is not known."""
    names = (name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR))
    sizes = [KNOWN_GB[name] for name in names if name in KNOWN_GB]
    return min(sizes) * 10**9 if sizes else None


def needed_bytes(context: RunContext) -> int | None:
    """What one worker needs of a GPU's memory; None where the card does not say, or weights wait elsewhere."""
    weights = context.backend.gpu_bytes(context.card)
    if weights is None:
        return None
    return weights + CONTEXT_BYTES + max(MIN_ACTIVATIONS_BYTES, int(weights * ACTIVATIONS_SHARE))


def share_of(gpu_bytes: int, needed: int) -> float:
    """Share of a GPU for one worker: 1/k for the k that fit, in Ray's steps of 0.0001; 1 where not even one does."""
    fitting = max(1, min(MAX_WORKERS, gpu_bytes // needed))
    return (10_000 // fitting) / 10_000


def describe_shortage(model: str, gpu_bytes: int, needed: int, larger: Mapping[str, int]) -> str:
    """What to say where one worker may not fit on a GPU; `larger` are the cluster's GPUs on which it would."""
    said = (
        f"execution.gpus_per_actor: {model} needs about {needed / GIB:.0f} GiB of GPU memory with activations, the "
        f"smallest GPU that workers may get has {gpu_bytes / GIB:.0f} GiB"
    )
    if larger:
        best = min(larger, key=lambda name: larger[name])
        return f"{said} (execution.accelerator_type: {best} has {larger[best] / GIB:.0f}; or backend.offload: model)"
    return f"{said} (set backend.offload: model, or join nodes with larger GPUs)"
