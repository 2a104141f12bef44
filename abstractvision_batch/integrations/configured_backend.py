"""From a host's settings to a backend. Nothing is loaded before the backend generates.

A setting is the key or attribute `vision_<name>` of the owner's `config`, or of the owner itself, else its environment
variable (`vision_sdcpp_cwd` has none: a working folder is the owner's to choose).

Not covered: the variables and which key goes where (`backends.from_environment`).
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.from_environment import (
    OPENAI_URL,
    VARIABLES,
    find_key_variable,
    is_openais,
    plain_kind,
    read_backend_fields,
    read_choice,
    read_section,
)
from abstractvision_batch.backends.table import load_backend_class, require_extra
from abstractvision_batch.errors import BackendNotConfiguredError, SpecError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry

OPENAI_MODEL_ID = "gpt-image-2"
HTTP_KINDS = ("openai", "openai-compatible")

#: What the owner says over the environment, both by the names of variables.
Settings = ChainMap[str, Any]


def read_settings(owner: object) -> Settings:
    """Return what an owner and the environment say now."""
    said = {variable.name: owner_value(owner, variable.setting) for variable in VARIABLES}
    return ChainMap({name: value for name, value in said.items() if value is not None}, dict(os.environ))


def owner_value(owner: object, key: str) -> Any:
    """Return what the owner itself says, as it is; None if nothing."""
    for source in (getattr(owner, "config", None), owner):
        found = source.get(key) if isinstance(source, Mapping) else getattr(source, key, None)
        if found is not None:
            return found
    return None


def backend_kind(settings: Settings, default: str) -> str:
    """Return which backend the owner wants: `openai` is OpenAI's server if none is named, `openai-compatible` none."""
    name = (read_choice(settings, "backend") or default).lower().replace("_", "-")
    return name if name in HTTP_KINDS else plain_kind(name) or name


def make_backend(
    owner: object, kind: str, registry: VisionModelCapabilitiesRegistry, *, model: str | None = None
) -> VisionBackend:
    """Make the backend of a kind as the settings say, for another model than theirs if one is named.

    Raises:
        BackendNotConfiguredError: a setting that it needs is missing or wrong.
        OptionalDependencyMissingError: its extra is not installed.
    """
    settings = read_settings(owner)
    fields = backend_fields(settings, kind)
    model = model or model_of(settings, kind)
    if kind == "diffusers" and model is None:
        raise _missing(kind, "model", "diffusers.model")
    if kind == "sdcpp":
        model = model or fields.get("model_path") or fields["diffusion_model"]
        folder = owner_value(owner, "vision_sdcpp_cwd")
        fields |= {} if folder is None else {"cwd": str(folder)}
    facts = registry.card(model).backends.get(kind, {}) if model in registry.list_models() else {}
    return load_backend_class(_section_of(kind)).from_fields(fields, card_facts=facts, model=model or "")


def model_of(settings: Settings, kind: str) -> str | None:
    """Return the model that the owner configured for a kind of backend."""
    model = read_choice(settings, "model", f"{_section_of(kind)}.model")
    if model is None and kind in HTTP_KINDS and is_openais(_server(settings, kind)):
        return OPENAI_MODEL_ID
    return model


def backend_fields(settings: Settings, kind: str) -> dict[str, Any]:
    """Return the fields of a backend's section that the settings say, checked as a job spec's are.

    Raises:
        BackendNotConfiguredError: a value is wrong; there is no server, no key for OpenAI's, or no file of a model.
    """
    given, key = {}, None
    section = _section_of(kind)
    require_extra(section)
    if section == "openai":
        given = {"base_url": _server(settings, kind)}
        key = _find_key(settings, given["base_url"])
        if key is None and is_openais(given["base_url"]):
            raise _missing(kind, "openai.api_key")
    try:
        said = read_backend_fields(settings, section)
        fields = read_section(settings, section, given).model_dump(include={*said, *given}) if said or given else {}
    except SpecError as error:
        raise BackendNotConfiguredError("\n".join(map(_naming_settings, error.problems))) from error
    if kind == "sdcpp" and fields.keys().isdisjoint({"model_path", "diffusion_model"}):
        raise _missing(kind, "sdcpp.model_path", "sdcpp.diffusion_model")
    return fields if key is None else {**fields, "api_key": key}


def _section_of(kind: str) -> str:
    return "openai" if kind in HTTP_KINDS else kind


def _server(settings: Settings, kind: str) -> str:
    base_url = read_choice(settings, "openai.base_url") or (OPENAI_URL if kind == "openai" else None)
    if base_url is None:
        raise _missing(kind, "openai.base_url")
    return base_url


def _find_key(settings: Settings, base_url: str) -> str | None:
    """Return the key of a server; the environment's own for the environment's own server, and likewise the owner's."""
    found = ((source, find_key_variable(source, base_url)) for source in settings.maps)
    return next((str(source[name]).strip() for source, name in found if name is not None), None)


def _missing(kind: str, *choices: str) -> BackendNotConfiguredError:
    variables = [variable for variable in VARIABLES if variable.sets in choices]
    places = dict.fromkeys(place for variable in variables for place in (variable.setting, variable.name))
    return BackendNotConfiguredError(f"abstractvision: backend {kind} is not configured (set {' or '.join(places)})")


def _naming_settings(problem: str) -> str:
    """Name the owner's setting, next to the variable that a problem begins with."""
    name, colon, rest = problem.partition(": ")
    setting = next((f"{variable.setting} or " for variable in VARIABLES if variable.name == name), "")
    return f"{setting}{name}{colon}{rest}"
