"""Examines the machine for `doctor`. Each check answers, whatever it finds.

Torch and Ray are imported in processes of their own: a broken installation, which may well end its process, is an
answer too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.table import BackendEntry, create_backend, load_section_class, outside_backends
from abstractvision_batch.cli.output import format_size
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.execute.executor_choice import choose_executor
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest
from abstractvision_batch.version import __version__

#: Extra → the modules that it installs.
EXTRAS = {
    "diffusers": ("torch", "diffusers", "transformers", "accelerate", "safetensors", "peft", "av"),
    "diffusers-core": ("torch", "diffusers", "transformers", "accelerate", "safetensors", "peft", "av"),
    "ray": ("ray",),
    "cluster": ("ray", "aiohttp", "aiohttp_cors", "opencensus"),
    "sdcpp": ("stable_diffusion_cpp",),
    "openai": ("httpx",),
    "datasets": ("datasets",),
    "dynamic": ("dynamicprompts",),
    "repl": ("prompt_toolkit",),
    "compare": ("skimage", "imagehash"),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
}
_IMPORT_TIMEOUT_S = 120

_DESCRIBE_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
cuda = [torch.cuda.get_device_properties(number) for number in range(count)]
print(json.dumps({
    "version": torch.__version__,
    "threads": torch.get_num_threads(),
    "cuda": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in cuda],
    "mps": bool(torch.backends.mps.is_available()),
}))
"""
_DESCRIBE_TORCHVISION = "import json, torchvision; print(json.dumps({'version': torchvision.__version__}))"
_LOAD_BACKEND = """
import json
from abstractvision_batch.backends.table import load_backend_class, load_section_class
from abstractvision_batch.errors import DependencyError
try:
    print(json.dumps({{"classes": [str(load_section_class({kind!r})), str(load_backend_class({kind!r}))]}}))
except DependencyError as error:
    print(json.dumps({{"error": str(error)}}))
"""
_DESCRIBE_RAY = "import json, ray; print(json.dumps({'version': ray.__version__}))"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `needed` ones are those without which no job runs."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    needed: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def examine_machine() -> list[Check]:
    """Every check, in the order to show them."""
    with ThreadPoolExecutor(2) as pool:
        torch = pool.submit(_import_apart, "torch", _DESCRIBE_TORCH)
        torchvision = pool.submit(_import_apart, "torchvision", _DESCRIBE_TORCHVISION)
        ray = pool.submit(_import_apart, "ray", _DESCRIBE_RAY)
        return [
            *_check_host(),
            _check_temporary_folder(),
            _check_drawing(),
            _check_embedded_model(),
            *(_check_extra(extra, modules) for extra, modules in EXTRAS.items()),
            *_check_devices(torch.result()),
            _check_torchvision(torchvision.result()),
            _check_ray(ray.result()),
            _check_executor(),
            *pool.map(_check_backend, outside_backends().items()),
        ]


def _check_host() -> Iterator[Check]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    python = platform.python_version()
    yield Check("avbatch", True, __version__, needed=True, details={"version": __version__})
    yield Check("python", True, f"{python} at {sys.executable}", needed=True, details={"version": python})
    yield Check(
        "machine",
        True,
        f"{platform.platform()}, {cpus} CPUs, {format_size(memory)} memory",
        details={"cpus": cpus, "memory_bytes": memory},
    )


def _check_temporary_folder() -> Check:
    folder = "no folder"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as stream:
            stream.write(b"x")
    except OSError as error:
        return Check("temp", False, f"{folder}: {error}", "set TMPDIR to a folder that can be written", needed=True)
    return Check("temp", True, f"{folder} can be written", needed=True)


def _check_drawing() -> Check:
    """The whole way from a request to pixels, with the backend that needs nothing."""
    try:
        card = load_cards()["avbatch/procedural"]
        with create_backend(load_section_class("procedural")(kind="procedural"), card=card, model=card.id) as backend:
            request = ImageGenerationRequest(prompt="a small picture", width=64, height=48, seed=7)
            (asset,) = backend.generate_batch([request])
        if not isinstance(asset, GeneratedAsset):
            return Check("drawing", False, f"the procedural backend answered {asset}", needed=True)
        image = decode_image(asset.data)
    except AbstractVisionError as error:
        return Check("drawing", False, str(error), needed=True)
    return Check("drawing", True, f"drew a picture of {image.width}×{image.height} pixels", needed=True)


def _check_embedded_model() -> Check:
    folder = Path(str(files("abstractvision_batch") / "models" / "shapes64"))
    weights = sorted(folder.glob("*/*.safetensors"))
    size = sum(path.stat().st_size for path in weights)
    if not weights or not (folder / "model_index.json").is_file():
        return Check(
            "embedded model", False, f"no weights in {folder}", "pip install --force-reinstall abstractvision_batch"
        )
    return Check("embedded model", True, f"avbatch/shapes64, {format_size(size)}", details={"size_bytes": size})


def _check_extra(extra: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    name, details = f"extra {extra}", {"extra": extra}
    if missing:
        mend = f'pip install "abstractvision_batch[{extra}]"'
        return Check(name, False, f"not installed: {', '.join(missing)}", mend, details=details)
    return Check(name, True, ", ".join(_name_version(module) for module in modules), details=details)


def _name_version(module: str) -> str:
    """Module and version, by the distribution that brought it."""
    for distribution in _distributions().get(module, ()):
        return f"{module} {importlib.metadata.version(distribution)}"
    return module


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _check_devices(torch: dict[str, Any]) -> Iterator[Check]:
    if "error" in torch:
        yield Check("devices", False, torch["error"], 'pip install "abstractvision_batch[diffusers]"')
        return
    for number, gpu in enumerate(torch["cuda"]):
        yield Check(f"device cuda:{number}", True, f"{gpu['name']}, {format_size(gpu['memory_bytes'])}", details=gpu)
    if torch["mps"]:
        yield Check("device mps", True, "Apple GPU")
    yield Check(
        "device cpu",
        True,
        f"torch {torch['version']}, {torch['threads']} threads",
        details={"threads": torch["threads"]},
    )


def _check_torchvision(torchvision: dict[str, Any]) -> Check:
    """Some models need it; where it is and does not go with torch, no model of Diffusers works."""
    if "error" not in torchvision:
        return Check("torchvision", True, f"{torchvision['version']} can be imported", details=torchvision)
    if importlib.util.find_spec("torchvision") is not None:
        mend = "pip uninstall torchvision, or install builds of torch and torchvision that belong together"
        return Check("torchvision", False, f"{torchvision['error']}; no model of Diffusers works", mend)
    needing = sorted(card.id for card in load_cards().values() if "torchvision" in card.facts("diffusers").packages)
    mend = "pip install torchvision"
    if importlib.util.find_spec("torch") is not None and "+cpu" in importlib.metadata.version("torch"):
        mend += " from where this torch came from: the usual one is for CUDA, and breaks a torch for CPUs"
    return Check("torchvision", False, f"not installed, and needed by {', '.join(needing)}", mend)


def _check_ray(ray: dict[str, Any]) -> Check:
    if "error" in ray:
        return Check("ray", False, ray["error"], 'pip install "abstractvision_batch[ray]"')
    return Check("ray", True, f"{ray['version']} can be imported", details={"version": ray["version"]})


def _check_executor() -> Check:
    job = {"name": "any", "model": "any", "prompts": {"source": ["any"]}, "output": {"path": "any"}}
    choice = choose_executor(JobSpec.model_validate(job))
    found = f"{choice}, for a model that runs here"
    return Check("executor auto", True, found, details={"executor": choice.executor, "why": choice.why})


def _check_backend(named: tuple[str, BackendEntry]) -> Check:
    """Check a backend of another package."""
    kind, entry = named
    module = entry.target.partition(":")[0].partition(".")[0]
    found = {"error": entry.fault} if entry.fault else _import_apart(module, _LOAD_BACKEND.format(kind=kind))
    if "error" in found:
        return Check(
            f"backend {kind}", False, f"{entry.package}: {found['error']}", f"pip uninstall {entry.package.split()[0]}"
        )
    return Check(f"backend {kind}", True, f"{entry.package}: {entry.target}")


def _import_apart(module: str, code: str) -> dict[str, Any]:
    """What `code`, run in another process, printed as JSON; `{"error": ...}` if that did not work."""
    if importlib.util.find_spec(module) is None:
        return {"error": f"{module} is not installed"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"importing {module} takes longer than {_IMPORT_TIMEOUT_S} s"}
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
        return {"error": f"importing {module} fails: {said[-1]}"}
    except (OSError, ValueError, IndexError) as error:
        return {"error": f"importing {module} fails: {error}"}
    return found
