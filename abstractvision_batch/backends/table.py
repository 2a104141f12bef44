"""The table of backends, and how one is made from a job's section.

    kind → class of the backend, class of its section, what it needs, the command that installs it

Backends of other installed packages come from entry points, and nothing of theirs is imported before a job or a command
names them: one that is slow or broken costs the others nothing. Not covered: what a backend does (`base_backend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, get_args

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, OptionalDependencyMissingError
from abstractvision_batch.job.backend_section import BACKEND_GROUP, BackendSection
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import TASKS, Task

#: Entry points of other packages, each named as the kind: the sections of those backends that have fields.
SECTION_GROUP = "abstractvision_batch.sections"
#: Says what is wrong with a request's `extra`: the paths of fields of a spec, and the messages.
ExtraChecker = Callable[[Mapping[str, Any]], list[tuple[FieldPath, str]]]


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One backend: `module:Class` of it and of its section, the top-level modules it needs, what installs them.

    The package's own also say what the README's table says of them; a test compares `tasks` with the class.
    """

    target: str
    modules: tuple[str, ...] = ()
    install: str = ""
    tasks: tuple[Task, ...] = ()
    """What it can do with a model and a configuration that can."""
    gpu: str = ""
    notes: str = ""
    section: str = ""
    """By default `BackendSection`, which has no field but the kind."""
    package: str = ""
    """Name and version of the other package that brings it."""
    fault: str = ""
    """Why it cannot be used, whatever its classes are."""


_HERE = "abstractvision_batch.backends"

BACKENDS: dict[str, BackendEntry] = {
    "diffusers": BackendEntry(
        target=f"{_HERE}.huggingface_diffusers.backend:HuggingFaceDiffusersVisionBackend",
        section=f"{_HERE}.huggingface_diffusers.fields:DiffusersBackendSpec",
        modules=("torch", "diffusers", "transformers", "accelerate", "safetensors"),
        install='pip install "abstractvision_batch[diffusers]"',
        tasks=TASKS,
        gpu="CUDA or Apple's; a CPU does",
        notes="local weights, from a folder, a checkpoint or the hub cache; the model's card says which tasks it does",
    ),
    "openai": BackendEntry(
        target=f"{_HERE}.openai_compatible.backend:OpenAICompatibleVisionBackend",
        section=f"{_HERE}.openai_compatible.fields:OpenAIBackendSpec",
        modules=("httpx",),
        install='pip install "abstractvision_batch[openai]"',
        tasks=("text_to_image", "image_to_image", "text_to_video", "image_to_video"),
        gpu="the server's",
        notes="any server that speaks OpenAI's API, in its own dialect; videos where that or `video_mode` says how",
    ),
    "procedural": BackendEntry(
        target=f"{_HERE}.procedural.backend:ProceduralVisionBackend",
        section=f"{_HERE}.procedural.fields:ProceduralBackendSpec",
        tasks=TASKS,
        gpu="none",
        notes="draws from prompt and seed without a model; fails and crashes on demand",
    ),
    "sdcpp": BackendEntry(
        target=f"{_HERE}.stable_diffusion_cpp.backend:StableDiffusionCppVisionBackend",
        section=f"{_HERE}.stable_diffusion_cpp.fields:SdcppBackendSpec",
        install='pip install "abstractvision_batch[sdcpp]"',  # or the programs alone: the backend says which it found
        tasks=("text_to_image", "image_to_image", "text_to_video", "image_to_video"),
        gpu="what its build is for; a CPU does",
        notes="local GGUF, safetensors or ckpt files by path; videos with Wan models, in modes `cli` and `python`",
    ),
}


def list_backends() -> dict[str, BackendEntry]:
    """Return every backend by name: the package's own, and those of other installed packages."""
    return {**outside_backends(), **BACKENDS}


@cache
def outside_backends() -> dict[str, BackendEntry]:
    """Return the backends of other installed packages by name, also those that cannot be used."""
    sections = {(_package(point), point.name): point.value for point in entry_points(group=SECTION_GROUP)}
    found: dict[str, BackendEntry] = {}
    for point in entry_points(group=BACKEND_GROUP):
        kind, package = point.name, _package(point)
        fault = ""
        if kind in BACKENDS:
            fault = "this name is that of a backend of avbatch"
        elif kind in found:
            fault = f"{found[kind].package} has a backend of this name too (uninstall one of them)"
        found[kind] = BackendEntry(
            target=point.value, section=sections.get((package, kind), ""), package=package, fault=fault
        )
    return found


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


def find_extra_checker(section: BackendSection, card: ModelCard, model: str, task: Task) -> ExtraChecker | None:
    """Return what checks a job's `extra` for its backend, as far as that is installed here and can tell; else None."""
    try:
        require_extra(section.kind)
        # A server's key, which making the backend needs, may be elsewhere.
        if load_backend_class(section.kind).find_problems is VisionBackend.find_problems:
            return None
        return partial(create_backend(section, card=card, model=model).find_problems, task)
    except DependencyError:
        return None


def find_own_problems(find: ExtraChecker, key: str, value: Any) -> Iterator[tuple[FieldPath, str]]:
    """Yield what is wrong with one key of `extra`, as paths inside its value; of None, with the key alone."""
    at = ("params", "extra", key)
    yield from ((path[len(at) :], said) for path, said in find({key: value}) if path[: len(at)] == at)


def load_backend_class(kind: str) -> type[VisionBackend]:
    """Import the class of a backend.

    Raises:
        OptionalDependencyMissingError: its extra is not installed.
        DependencyError: another package's entry point does not lead to a backend.
    """
    require_extra(kind)
    found: type[VisionBackend] = _load(kind, _entry(kind).target, VisionBackend)
    return found


@cache
def load_section_class(kind: str) -> type[BackendSection]:
    """Import the class of a backend's section.

    Raises:
        CapabilityNotSupportedError: no backend has this name.
        DependencyError: another package's entry point does not lead to a section of this kind.
    """
    entry = _entry(kind)
    if not entry.section:
        return BackendSection
    found: type[BackendSection] = _load(kind, entry.section, BackendSection)
    field = found.model_fields["kind"]
    if not (field.annotation is str or get_args(field.annotation) == (kind,)):
        raise DependencyError(f"{_place(kind)}: {entry.section} is the section of another kind")
    return found


def create_backend(section: BackendSection, *, card: ModelCard | None, model: str) -> VisionBackend:
    """Make the backend that a job's `backend` section describes; nothing is loaded yet.

    A model without a card is what the section alone says.
    """
    fields: dict[str, Any] = section.model_dump(exclude={"kind"})
    card_facts = {} if card is None else card.backends.get(section.kind, {})
    return load_backend_class(section.kind).from_fields(fields, card_facts=card_facts, model=model)


def derive_card(section: BackendSection, *, model: str) -> ModelCard | None:
    """Describe a model that has no card by its files; None where backends of this kind cannot tell.

    Args:
        section: of the job, its local paths absolute.
        model: id or path.

    Raises:
        DependencyError: the model is not there, cannot be run, or the backend is not installed.
    """
    if load_backend_class(section.kind).derive_card is VisionBackend.derive_card:
        return None
    with create_backend(section, card=None, model=model) as backend:
        return backend.derive_card()


def _entry(kind: str) -> BackendEntry:
    backends = list_backends()
    if kind not in backends:
        hint = hint_for(kind, backends, f"there are: {', '.join(sorted(backends))}")
        raise CapabilityNotSupportedError(f"backend {kind}: unknown ({hint})")
    return backends[kind]


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "another package"


def _load(kind: str, target: str, base: type) -> Any:
    if fault := _entry(kind).fault:
        raise DependencyError(f"{_place(kind)}: {fault}")
    try:
        found = EntryPoint(kind, target, BACKEND_GROUP).load()
    except (Exception, SystemExit) as exc:  # another package's module does what it likes when it is imported
        raise DependencyError(f"{_place(kind)}: {target} cannot be imported ({type(exc).__name__}: {exc})") from exc
    if not (isinstance(found, type) and issubclass(found, base)):
        raise DependencyError(f"{_place(kind)}: {target} is not a {base.__name__}")
    return found


def _place(kind: str) -> str:
    package = _entry(kind).package
    return f"backend {kind} of {package}" if package else f"backend {kind}"
