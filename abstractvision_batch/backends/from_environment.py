"""From settings to what generates: one table of environment variables, and one rule of which key goes to which server.

`generate`, `repl` and `provider-models` read the process's environment; AbstractCore's plugin lays over it what its
host is configured with (`integrations.configured_backend`). An option of the command line, and an argument of a call,
win over both. A key that was meant for one server goes to no other, and the command line passes it on by the name of
its variable.

Not covered: job specs, which read none of this: they say everything themselves, so that they mean the same everywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin
from urllib.parse import urlsplit

from pydantic import ValidationError

from abstractvision_batch.backends.table import BACKENDS, load_section_class
from abstractvision_batch.documents.messages import explain
from abstractvision_batch.documents.positions import format_path
from abstractvision_batch.documents.strict_model import StrictModel
from abstractvision_batch.documents.type_words import members, unwrap
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.local_model import is_path, local_path
from abstractvision_batch.job.marks import FromVariable
from abstractvision_batch.job.model import BackendSpec
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.model_card import ModelCard

EMBEDDED_MODEL = "avbatch/shapes64"
PROCEDURAL_MODEL = "avbatch/procedural"
OPENAI_HOST = "api.openai.com"
OPENAI_URL = f"https://{OPENAI_HOST}/v1"
#: What the older library and its users call the backends.
_ALIASES = {
    "openai-compatible": "openai",
    "http": "openai",
    "hf": "diffusers",
    "huggingface": "diffusers",
    "sd-cpp": "sdcpp",
    "stable-diffusion.cpp": "sdcpp",
    "stable-diffusion-cpp": "sdcpp",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: its name, the field that it sets, and how a person reads about it."""

    name: str
    sets: str
    """A choice of the command line, or `<kind>.<field>` of a backend section."""
    description: str
    host: str = ""
    """Its name in the settings of AbstractCore's host, after `vision_`, if it does not follow from this one."""

    @property
    def setting(self) -> str:
        """Return the name of the host's setting."""
        plain = self.name.removeprefix("ABSTRACTVISION_").removeprefix("DIFFUSERS_").lower()
        return f"vision_{self.host or plain}"

    @property
    def secret(self) -> bool:
        """Return whether its value must never be printed."""
        return self.sets.endswith(".api_key")


#: Those of no field of a section: what is chosen before there is one.
_CHOICES = (
    Variable("ABSTRACTVISION_BACKEND", "backend", "Backend kind: `diffusers`, `openai`, `procedural` or `sdcpp`."),
    Variable("ABSTRACTVISION_MODEL_ID", "model", "Model: the id of a card, of a hub repository, or the server's own."),
    Variable("ABSTRACTVISION_CAPABILITIES_MODEL_ID", "cap_model", "Whose card calls are checked against."),
    Variable("ABSTRACTVISION_STORE_DIR", "store", "Folder or URL of the asset store that outputs go to."),
    Variable(
        "ABSTRACTVISION_DIFFUSERS_MODEL_ID",
        "diffusers.model",
        "Model of backend `diffusers`.",
        host="diffusers_model_id",
    ),
    Variable("OPENAI_IMAGE_MODEL_ID", "openai.model", "Model of backend `openai`.", host="openai_model_id"),
    Variable("OPENAI_IMAGE_MODEL", "openai.model", "The same.", host="openai_model_id"),
)
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _of_fields() -> Iterator[Variable]:
    for kind in BACKENDS:
        for field, info in load_section_class(kind).model_fields.items():
            for mark in info.metadata:
                if isinstance(mark, FromVariable):
                    name = mark.name or f"ABSTRACTVISION_{kind}_{field}".upper()
                    said = mark.description or (info.description or "").partition("\n")[0]
                    yield Variable(name, f"{kind}.{field}", said, mark.host)


#: Of two variables that set the same, the first one wins.
VARIABLES: tuple[Variable, ...] = (*_CHOICES, *_of_fields())


@dataclass(frozen=True, slots=True)
class Target:
    """A backend, its model, and the card that calls are checked against, if there is one."""

    backend: BackendSpec
    model: str | None
    card: ModelCard | None


class _Section(StrictModel):
    """The part of a job spec that is about its backend."""

    backend: BackendSpec


def choose_target(
    registry: VisionModelCapabilitiesRegistry,
    environ: Mapping[str, str],
    *,
    kind: str | None = None,
    model: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Target:
    """Choose backend, model and card for the command line; what nothing says follows from the model.

    Args:
        registry: the cards.
        environ: the process's environment.
        kind: of the backend; None: the environment's, else what runs the model.
        model: None: the environment's, else the embedded model where the backend is local.
        fields: of the backend's section, as in a job spec; those of value None count as not given.

    Raises:
        SpecError: the choice is not valid.
    """
    given = {name: value for name, value in (fields or {}).items() if value is not None}
    named = plain_kind(kind or ("openai" if "base_url" in given else None))
    usual = plain_kind(read_choice(environ, "backend"))
    card = _card(registry, model)
    kind = named or (usual if card is None or usual in card.backends else None)
    if model is None:
        model = _usual_model(environ, kind, usual, given)
        card = _card(registry, model)
    if kind is None:
        kinds = sorted(card.backends) if card is not None else []
        kind = "diffusers" if "diffusers" in kinds or not kinds else kinds[0]
    if kind == "openai":
        base_url = given.get("base_url") or read_choice(environ, "openai.base_url")
        if base_url is None:
            raise SpecError(
                "openai: no server is named "
                f"(--base-url URL, or export ABSTRACTVISION_BASE_URL=…; OpenAI's own is {OPENAI_URL})"
            )
        if "api_key" not in given and (name := find_key_variable(environ, base_url)):
            given["api_key"] = {"env": name}
    model = model if card is None else card.id  # not one of its aliases
    cap_model = read_choice(environ, "cap_model")
    section = read_section(environ, kind, given)
    if model is not None and is_path(model):
        section = section.at_path(local_path(Path(), model))
    return Target(section, model, card if cap_model is None else registry.card(cap_model))


def plain_kind(name: str | None) -> str | None:
    """Return the name that a backend has here."""
    plain = None if name is None else name.lower().replace("_", "-")
    return None if name is None else _ALIASES.get(plain or "", name.lower())


def read_section(environ: Mapping[str, Any], kind: str, given: Mapping[str, Any]) -> BackendSpec:
    """Return the backend section that variables and `given` fields make, checked as a job spec's is.

    Raises:
        SpecError: one problem per wrong field, `backend.dtype: …`, after the name of the variable that it came from.
    """
    data = {"backend": {"kind": kind, **read_backend_fields(environ, kind), **given}}
    try:
        return _Section.model_validate(data).backend
    except ValidationError as error:
        found = {format_path(path): said for path, said in explain(error, data, _Section).items()}
    problems = tuple(_naming_variables(f"{place}: {said}", environ, kind, given) for place, said in found.items())
    raise SpecError("\n".join(problems), problems=problems)


def read_choice(environ: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these settings that a variable gives: `"openai.model", "model"`."""
    found = (variable_for(environ, name) for name in names)
    return next((_text(environ, variable.name) for variable in found if variable is not None), None)


def read_backend_fields(environ: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the fields of a backend section that variables give, secrets left out.

    Raises:
        SpecError: a value is not what its variable takes.
    """
    fields: dict[str, Any] = {}
    for variable in VARIABLES:
        section, _, field = variable.sets.partition(".")
        if section != kind or field in ("", "model") or field in fields or variable.secret:
            continue
        if isinstance(value := environ.get(variable.name), list | tuple):  # a host need not quote
            fields[field] = [str(word) for word in value]
        elif text := _text(environ, variable.name):
            fields[field] = _typed(kind, field, text, variable.name)
    return fields


def find_key_variable(environ: Mapping[str, Any], base_url: str) -> str | None:
    """Return the name of the variable that holds the key of a server.

    OpenAI's key belongs to OpenAI's own hosts and to `OPENAI_BASE_URL`, the other one to `ABSTRACTVISION_BASE_URL` or,
    where that names no server, to any. So all of these have to come from one source.
    """
    own, own_server = "ABSTRACTVISION_API_KEY", _text(environ, "ABSTRACTVISION_BASE_URL")
    for_openai = is_openais(base_url) or _text(environ, "OPENAI_BASE_URL") == base_url
    order = [(own, own_server == base_url), ("OPENAI_API_KEY", for_openai), (own, not own_server)]
    return next((name for name, fits in order if fits and _text(environ, name)), None)


def is_openais(url: str) -> bool:
    """Return whether the host is OpenAI's own. Azure's hosts speak the same API but have their own keys."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")


def variable_for(environ: Mapping[str, Any], setting: str) -> Variable | None:
    """Return the variable that gives a setting."""
    candidates = (variable for variable in VARIABLES if variable.sets == setting)
    return next((variable for variable in candidates if _text(environ, variable.name)), None)


def describe_environment(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that are set and their values, those of secrets masked."""
    found = {
        variable.name: "***" if variable.secret else environ[variable.name]
        for variable in VARIABLES
        if _text(environ, variable.name)
    }
    return list(found.items())


def _text(environ: Mapping[str, Any], name: str) -> str:
    value = environ.get(name)
    return "" if value is None else str(value).strip()


def _typed(kind: str, field: str, text: str, name: str) -> Any:
    annotation = load_section_class(kind).model_fields[field].annotation
    forms = [get_origin(form) or form for form in (unwrap(member)[0] for member in members(annotation))]
    if bool in forms:
        if text.lower() not in _WORDS:
            raise SpecError(f"{name}: {text!r} is neither yes nor no (write 1 or 0)")
        return _WORDS[text.lower()]
    try:
        if float in forms:
            return float(text)
        return shlex.split(text) if tuple in forms else text
    except ValueError as error:
        raise SpecError(
            f"{name}: {text!r} is not {'a number' if float in forms else 'quoted as in a shell'}"
        ) from error


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
    return None if model is None else registry.find(model)


def _naming_variables(problem: str, environ: Mapping[str, Any], kind: str, given: Mapping[str, Any]) -> str:
    """Name the variable that a wrong field came from."""
    field = problem.partition(":")[0].removeprefix("backend.")
    variable = variable_for(environ, f"{kind}.{field}")
    if field == "kind" and (read_choice(environ, "backend") or "").lower() == kind:
        variable = variable_for(environ, "backend")
    return problem if variable is None or field in given else f"{variable.name}: {problem}"
