"""What a run would contact, read and start if it were taken at its word, and whether it may be.

A run folder may come from a stranger. Verbs that take a run (`retry`, `rerun`, `verify`) run with the spec that the run
recorded, so all that this spec names outside of the run is listed here: servers, variables with secrets, programs,
local paths. Nothing of it is used unless this user started the run (`runs.started`), named it in an override, or trusts
the run by name. A run that names nothing needs no trust, e.g. one on the procedural backend or the embedded model.

Not covered: a spec that the user names, which is the user's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from abstractvision_batch.backends.huggingface_diffusers.fields import DiffusersBackendSpec
from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.backends.procedural.fields import ProceduralBackendSpec
from abstractvision_batch.backends.stable_diffusion_cpp.fields import SdcppBackendSpec
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.load import SDCPP_PATHS, LoadedSpec
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.started import state_folder, was_started_here

logger = logging.getLogger(__name__)

#: Tasks whose requests have pictures of elsewhere.
_TASKS_WITH_IMAGES = ("image_to_image", "image_to_video", "multi_view_image")


def require_trust(source: Run, loaded: LoadedSpec, *, verb: str, overrides: Sequence[str], trust: bool) -> None:
    """Refuse to run with what a run recorded, where it names anything outside of it and this user did not start it.

    Args:
        source: The run.
        loaded: Its recorded spec, overridden.
        verb: What the message calls this, as ``a retry``.
        overrides: ``dotted.key=value`` strings that the user gave: what they name is the user's.
        trust: Whether the user said that the run may be trusted; what is trusted is logged.

    Raises:
        SpecError: it is not trusted; the message lists everything.
    """
    own = {text.partition("=")[0].strip() for text in overrides}
    demands = [f"{said} ({field})" for field, said in find_demands(loaded) if not _is_named(field, own)]
    if not demands or was_started_here(source.store, source.record):
        return
    listed = "; ".join(demands)
    if not trust:
        raise SpecError(
            f"{source.path}: {verb} would, because its run.json says so: {listed}. {state_folder()} does not say that "
            "you started this run as it is now (look at what it names, then --trust; or run its own spec again)"
        )
    logger.warning("%s: trusted, so %s will: %s", source.path, verb, listed)


def find_demands(loaded: LoadedSpec) -> Iterator[tuple[str, str]]:
    """Everything outside of a run that its spec names, as (field, what would be done)."""
    spec = loaded.spec
    backend: object = loaded.backend  # a plug-in's too
    match backend:
        case OpenAIBackendSpec():
            yield "backend.base_url", f"contact {backend.base_url}"
            if backend.api_key is not None:
                yield "backend.api_key", f"send it the value of {backend.api_key.env}"
            for name, value in backend.headers.items():
                if isinstance(value, FromEnv):
                    yield "backend.headers", f"send it the value of {value.env} as {name}"
        case SdcppBackendSpec():
            yield from _sdcpp_demands(backend)
        case DiffusersBackendSpec():
            yield from _diffusers_demands(loaded, backend)
        case ProceduralBackendSpec():
            if backend.journal_path is not None:
                yield "backend.journal_path", f"write to {backend.journal_path}"
        case _:
            yield "backend.kind", f"use the backend {spec.backend.kind}, with whatever the run gives it"
    if spec.task in _TASKS_WITH_IMAGES:
        yield "prompts.source", "read the input pictures that its plan names: files of this machine, URLs"
    yield from _option_demands("prompts.storage_options", spec.prompts.storage_options)
    yield from _option_demands("output.storage_options", spec.output.storage_options)
    if spec.execution.address is not None:
        yield "execution.address", f"join the Ray cluster at {spec.execution.address}"
    environment = spec.execution.runtime_env
    for name in type(environment).model_fields:
        value = getattr(environment, name)
        if name == "env_vars":
            for variable, given in value.items():
                from_here = f" to the value of {given.env}" if isinstance(given, FromEnv) else ""
                yield "execution.runtime_env.env_vars", f"set {variable}{from_here} for workers"
        elif value is not None:
            yield f"execution.runtime_env.{name}", f"set up workers with its {name}"


def _sdcpp_demands(backend: SdcppBackendSpec) -> Iterator[tuple[str, str]]:
    fields = type(backend).model_fields
    for name in ("sd_cli_path", "sd_server_path"):
        program = getattr(backend, name)
        if program != fields[name].default:
            yield f"backend.{name}", f"start the program {program}"
    if backend.extra_args:
        yield "backend.extra_args", f"start sd-cli with {' '.join(backend.extra_args)[:200]}"
    for name in SDCPP_PATHS:
        if (path := getattr(backend, name)) is not None:
            yield f"backend.{name}", f"load {path}"
    for lora in backend.loras:
        yield "backend.loras", f"load {lora.source}"


def _diffusers_demands(loaded: LoadedSpec, backend: DiffusersBackendSpec) -> Iterator[tuple[str, str]]:
    for name in ("model_path", "config_path", "cache_dir", "rapid_aio_repo"):
        if (path := getattr(backend, name)) is not None:
            yield f"backend.{name}", f"load {path}"
    for lora in backend.loras:
        yield "backend.loras", f"load {lora.source}"
    if backend.allow_download:
        yield "backend.allow_download", f"download what is missing of {loaded.spec.model}"
    # A card says which classes and files are loaded; this installation's own may.
    installed = load_cards([]).get(loaded.spec.model)
    if installed is None or installed.backends.get("diffusers") != loaded.card.backends.get("diffusers"):
        yield "model", f"load {loaded.spec.model} as the card that it recorded says"


def _option_demands(field: str, options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        said = f"read {value.env} for" if isinstance(value, FromEnv) else "use"
        yield field, f"{said} the option {name} of a store"


def _is_named(field: str, own: set[str]) -> bool:
    """Whether an override names the field, or a section that it is in, or all that is in it."""
    return any(field == key or field.startswith(f"{key}.") for key in own)
