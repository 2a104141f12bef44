"""From options and environment to what generates; options win, and what neither says follows from the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.cli.environment import (
    find_key_variable,
    read_backend_fields,
    read_choice,
    variable_for,
)
from abstractvision_batch.errors import SpecError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.verbs.generate import OFFICIAL_URL, Target, parse_backend

EMBEDDED_MODEL = "avbatch/shapes64"
PROCEDURAL_MODEL = "avbatch/procedural"

#: What the older library and its users call the backends.
ALIASES = {
    "openai-compatible": "openai",
    "openai_compatible": "openai",
    "http": "openai",
    "hf": "diffusers",
    "huggingface": "diffusers",
    "sd-cpp": "sdcpp",
    "stable-diffusion.cpp": "sdcpp",
}


def choose_target(
    registry: VisionModelCapabilitiesRegistry,
    environ: Mapping[str, str],
    *,
    kind: str | None = None,
    model: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Target:
    """Choose backend, model and card.

    Args:
        registry: the cards.
        environ: the process's environment.
        kind: of the backend; None: the environment's, else what runs the model.
        model: None: the environment's, else the embedded model where the backend is local.
        fields: of the backend's section, as in a job spec; those of value None count as not given.

    Raises:
        SpecError: the choice is no valid one.
    """
    given = {name: value for name, value in (fields or {}).items() if value is not None}
    named = _plain_kind(kind or ("openai" if "base_url" in given else None))
    usual = _plain_kind(read_choice(environ, "backend"))
    card = _card(registry, model)
    kind = named or (usual if card is None or usual in card.backends else None)
    if model is None:
        model = _usual_model(environ, kind, usual, given)
        card = _card(registry, model)
    if kind is None:
        kind = _kind_for(card)
    section = {"kind": kind, **read_backend_fields(environ, kind), **given}
    if kind == "openai":
        _complete_server(section, environ)
    cap_model = read_choice(environ, "cap_model")
    try:
        backend = parse_backend(section)
    except SpecError as error:
        problems = tuple(_naming_variables(problem, environ, kind, given) for problem in error.problems)
        raise SpecError("\n".join(problems), problems=problems) from error
    return Target(backend, model, card if cap_model is None else registry.card(cap_model))


def _plain_kind(name: str | None) -> str | None:
    return None if name is None else ALIASES.get(name.lower(), name.lower())


def _usual_model(
    environ: Mapping[str, str], kind: str | None, usual: str | None, given: Mapping[str, Any]
) -> str | None:
    """Return the model where none is named: that of the environment, if it is meant for this backend."""
    if kind == "procedural":
        return PROCEDURAL_MODEL
    fields = {**read_backend_fields(environ, kind), **given} if kind else given
    path = fields.get("model_path") or fields.get("diffusion_model")
    own = [f"{kind}.model"] if kind else []
    found = read_choice(environ, *own, *(["model"] if usual in (None, kind) else []))
    return found or (None if path is None else str(path)) or (EMBEDDED_MODEL if kind in (None, "diffusers") else None)


def _card(registry: VisionModelCapabilitiesRegistry, model: str | None) -> ModelCard | None:
    return registry.card(model) if model is not None and model in registry.list_models() else None


def _kind_for(card: ModelCard | None) -> str:
    kinds = sorted(card.backends) if card is not None else []
    return "diffusers" if "diffusers" in kinds or not kinds else kinds[0]


def _complete_server(section: dict[str, Any], environ: Mapping[str, str]) -> None:
    if "base_url" not in section:
        raise SpecError(
            "openai: no server is named "
            f"(--base-url URL, or export ABSTRACTVISION_BASE_URL=…; OpenAI's own is {OFFICIAL_URL})"
        )
    if "api_key" not in section and (name := find_key_variable(environ, section["base_url"])):
        section["api_key"] = {"env": name}


def _naming_variables(problem: str, environ: Mapping[str, str], kind: str, given: Mapping[str, Any]) -> str:
    """Name the variable that a wrong field came from."""
    field = problem.partition(":")[0].removeprefix("backend.")
    variable = variable_for(environ, f"{kind}.{field}")
    if field == "kind" and (named := variable_for(environ, "backend")) and environ[named.name].strip().lower() == kind:
        variable = named
    return problem if variable is None or field in given else f"{variable.name}: {problem}"
