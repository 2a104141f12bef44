"""From a host's settings to a backend. Nothing is loaded before the backend generates.

Not covered: job specs, which name their backend themselves (`job`).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from abstractvision_batch import backends
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.table import load_backend_class, require_extra
from abstractvision_batch.errors import BackendNotConfiguredError
from abstractvision_batch.integrations.settings import Settings, describe
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry

OPENAI_BASE_URL = "https://api.openai.com/v1"
OPENAI_MODEL_ID = "gpt-image-2"
OPENAI_HOST = "api.openai.com"

#: Names of backends by what hosts call them.
KINDS = {
    "openai-compatible": "openai-compatible",
    "openai_compatible": "openai-compatible",
    "hf": "diffusers",
    "huggingface": "diffusers",
    "sd-cpp": "sdcpp",
    "stable-diffusion.cpp": "sdcpp",
    "stable-diffusion-cpp": "sdcpp",
    "stable_diffusion_cpp": "sdcpp",
}
HTTP_KINDS = ("openai", "openai-compatible")

_HTTP_PATHS = (
    "models_path",
    "image_generations_path",
    "image_edits_path",
    "text_to_video_path",
    "image_to_video_path",
    "image_to_video_mode",
)
#: The backend's own names, and the settings'.
_DIFFUSERS_FIELDS = {
    "device": "device",
    "dtype": "torch_dtype",
    "cache_dir": "cache_dir",
    "revision": "revision",
    "variant": "variant",
}
_SDCPP_FILES = ("model", "diffusion_model", "vae", "llm", "llm_vision", "clip_l", "clip_g", "t5xxl")


def backend_kind(settings: Settings, default: str) -> str:
    """Return which backend the owner wants."""
    name = settings.text("backend") or default
    return KINDS.get(name.lower(), name.lower())


def make_backend(
    settings: Settings, kind: str, registry: VisionModelCapabilitiesRegistry, *, model: str | None = None
) -> VisionBackend:
    """Make the backend of a kind as the settings say, for another model than theirs if one is named.

    Raises:
        BackendNotConfiguredError: a setting that it needs is missing or wrong.
        OptionalDependencyMissingError: its extra is not installed.
    """
    made: VisionBackend
    if kind in HTTP_KINDS:
        fields = openai_fields(settings, kind) | ({} if model is None else {"model_id": model})
        require_extra("openai")
        made = backends.OpenAICompatibleVisionBackend(config=backends.OpenAICompatibleBackendConfig(**fields))
        return made
    if kind == "sdcpp":
        fields = sdcpp_fields(settings)
        require_extra("sdcpp")
        made = backends.StableDiffusionCppVisionBackend(config=backends.StableDiffusionCppBackendConfig(**fields))
        return made
    model = model or model_of(settings, kind)
    fields = {}
    if kind == "diffusers":
        if model is None:
            raise _missing("diffusers", "model_id", "diffusers_model_id")
        fields.update(settings.texts(_DIFFUSERS_FIELDS))
        flags = {name: settings.flag(name) for name in ("allow_download", "auto_retry_fp32")}
        fields.update({name: flag for name, flag in flags.items() if flag is not None})
    known = model in registry.list_models()
    card_facts = registry.card(model).backends.get(kind, {}) if model is not None and known else {}
    return load_backend_class(kind).from_fields(fields, card_facts=card_facts, model=model or kind)


def model_of(settings: Settings, kind: str) -> str | None:
    """Return the model that the owner configured for a kind of backend."""
    own = settings.text("diffusers_model_id") if kind == "diffusers" else None
    return settings.text("model_id") or own


def openai_fields(settings: Settings, kind: str) -> dict[str, Any]:
    """Return the fields of the HTTP backend's config. OpenAI's key goes to OpenAI's server, or to `OPENAI_BASE_URL`.

    Raises:
        BackendNotConfiguredError: there is no server, or no key for OpenAI's.
    """
    base_url, key = settings.text("base_url"), settings.text("api_key")
    if base_url is None:
        base_url = settings.text("openai_base_url") or (OPENAI_BASE_URL if kind == "openai" else None)
        key = key or settings.text("openai_api_key")
    if base_url is None:
        raise _missing(kind, "base_url", "openai_base_url")
    official = urlsplit(base_url).hostname == OPENAI_HOST
    if official:
        key = key or settings.text("openai_api_key")
        if key is None:
            raise _missing(kind, "api_key", "openai_api_key")
    model = settings.text("model_id") or settings.text("openai_model_id") or (OPENAI_MODEL_ID if official else None)
    paths = settings.texts({name: name for name in _HTTP_PATHS})
    fields = {"base_url": base_url, "api_key": key, "model_id": model, "timeout_s": settings.seconds("timeout_s")}
    return {name: value for name, value in fields.items() if value is not None} | paths


def sdcpp_fields(settings: Settings) -> dict[str, Any]:
    """Return the fields of the stable-diffusion.cpp backend's config.

    Raises:
        BackendNotConfiguredError: there is no model.
    """
    files = settings.texts({name: f"sdcpp_{name}" for name in _SDCPP_FILES})
    if "model" not in files and "diffusion_model" not in files:
        raise _missing("sdcpp", "sdcpp_model", "sdcpp_diffusion_model")
    program = settings.texts({"sd_cli_path": "sdcpp_bin", "cwd": "sdcpp_cwd"})
    rest = {"extra_args": settings.arguments("sdcpp_extra_args"), "timeout_s": settings.seconds("timeout_s")}
    return {**files, **program, **{name: value for name, value in rest.items() if value}}


def _missing(kind: str, *names: str) -> BackendNotConfiguredError:
    places = " or ".join(describe(name) for name in names)
    return BackendNotConfiguredError(f"abstractvision: backend {kind} is not configured (set {places})")
