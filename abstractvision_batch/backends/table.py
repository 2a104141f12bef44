"""Which backends there are: name → class, what it imports and the command that installs it.

Other packages add theirs by an entry point of the group `abstractvision_batch.backends`, named like the backend and
pointing to a `VisionBackend` class. Nothing is imported before a backend is created.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, OptionalDependencyMissingError
from abstractvision_batch.types import TASKS, Task

if TYPE_CHECKING:
    from abstractvision_batch.job.model import BackendSpec
    from abstractvision_batch.registry.model_card import ModelCard

ENTRY_POINT_GROUP = "abstractvision_batch.backends"


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One backend: `module:Class`, the top-level modules it needs and the command that installs them.

    The package's own also say what the README's table says of them; a test compares `tasks` with the class.
    """

    target: str
    modules: tuple[str, ...] = ()
    install: str = ""
    tasks: tuple[Task, ...] = ()
    """What it can do with a model and a configuration that can."""
    gpu: str = ""
    notes: str = ""


_HERE = "abstractvision_batch.backends"

BACKENDS: dict[str, BackendEntry] = {
    "diffusers": BackendEntry(
        target=f"{_HERE}.huggingface_diffusers.backend:HuggingFaceDiffusersVisionBackend",
        modules=("torch", "diffusers", "transformers", "accelerate", "safetensors"),
        install='pip install "abstractvision_batch[diffusers]"',
        tasks=TASKS,
        gpu="CUDA or Apple's; a CPU does",
        notes="local weights, from a folder, a checkpoint or the hub cache; the model's card says which tasks it does",
    ),
    "openai": BackendEntry(
        target=f"{_HERE}.openai_compatible.backend:OpenAICompatibleVisionBackend",
        modules=("httpx",),
        install='pip install "abstractvision_batch[openai]"',
        tasks=("text_to_image", "image_to_image", "text_to_video", "image_to_video"),
        gpu="the server's",
        notes="any server that speaks OpenAI's API, in its own dialect; videos where that or `video_mode` says how",
    ),
    "procedural": BackendEntry(
        target=f"{_HERE}.procedural.backend:ProceduralVisionBackend",
        tasks=TASKS,
        gpu="none",
        notes="draws from prompt and seed without a model; fails and crashes on demand",
    ),
    "sdcpp": BackendEntry(
        target=f"{_HERE}.stable_diffusion_cpp.backend:StableDiffusionCppVisionBackend",
        install='pip install "abstractvision_batch[sdcpp]"',  # or the programs alone: the backend says which it found
        tasks=("text_to_image", "image_to_image", "text_to_video", "image_to_video"),
        gpu="what its build is for; a CPU does",
        notes="local GGUF, safetensors or ckpt files by path; videos with Wan models, in modes `cli` and `python`",
    ),
}


def list_backends() -> dict[str, BackendEntry]:
    """Return every backend by name: the package's own, and those of other installed packages."""
    return {**_entry_point_backends(), **BACKENDS}


def require_extra(kind: str) -> None:
    """Check that what the backend imports is installed, without importing it.

    Raises:
        OptionalDependencyMissingError: it is not; the message has the pip command.
        CapabilityNotSupportedError: no backend has this name.
    """
    entry = _entry(kind)
    missing = [module for module in entry.modules if find_spec(module) is None]
    if missing:
        raise OptionalDependencyMissingError(f"backend {kind}: not installed: {', '.join(missing)} ({entry.install})")


def load_backend_class(kind: str) -> type[VisionBackend]:
    """Import the class of a backend.

    Raises:
        OptionalDependencyMissingError: its extra is not installed.
        DependencyError: another package's entry point does not lead to a backend.
    """
    require_extra(kind)
    module, _, name = _entry(kind).target.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise DependencyError(f"backend {kind}: {module}:{name} cannot be imported ({exc})") from exc
    if not (isinstance(found, type) and issubclass(found, VisionBackend)):
        raise DependencyError(f"backend {kind}: {module}:{name} is not a VisionBackend")
    return found


def create_backend(spec: BackendSpec, *, card: ModelCard | None, model: str) -> VisionBackend:
    """Make the backend that a job's `backend` section describes; nothing is loaded yet.

    A model without a card is what the section alone says.
    """
    fields: dict[str, Any] = spec.model_dump(exclude={"kind"})
    card_facts = {} if card is None else card.backends.get(spec.kind, {})
    return load_backend_class(spec.kind).from_fields(fields, card_facts=card_facts, model=model)


def _entry(kind: str) -> BackendEntry:
    backends = list_backends()
    if kind not in backends:
        close = get_close_matches(kind, backends, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(backends))}"
        raise CapabilityNotSupportedError(f"backend {kind}: unknown ({hint})")
    return backends[kind]


@cache
def _entry_point_backends() -> dict[str, BackendEntry]:
    return {
        point.name: BackendEntry(target=point.value, install=f"pip install {point.dist.name}" if point.dist else "")
        for point in entry_points(group=ENTRY_POINT_GROUP)
    }
