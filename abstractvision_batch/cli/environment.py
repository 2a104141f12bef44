"""The environment variables of `generate`, `provider-models` and `repl`: the only place that reads them.

A job spec has no use for them: it says everything itself, so that it means the same everywhere. An option of the
command line wins over its variable. Secrets are passed on by the name of their variable; their value is not read here.
Not covered: AbstractCore's plugin, whose host configures it (`integrations.settings`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.errors import SpecError


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable and what it sets: a choice of the command line, or `<kind>.<field>` of a backend section."""

    name: str
    sets: str
    description: str
    secret: bool = False


_PREFIX = "ABSTRACTVISION_"
_HTTP, _LOCAL, _CPP = _PREFIX, f"{_PREFIX}DIFFUSERS_", f"{_PREFIX}SDCPP_"

#: Of two variables that set the same, the first one wins.
VARIABLES: tuple[Variable, ...] = (
    Variable(f"{_PREFIX}BACKEND", "backend", "Backend kind: `diffusers`, `openai`, `procedural` or `sdcpp`."),
    Variable(f"{_PREFIX}MODEL_ID", "model", "Model: the id of a card, of a hub repository, or the server's own."),
    Variable(f"{_PREFIX}CAPABILITIES_MODEL_ID", "cap_model", "Whose card calls are checked against; the model's own."),
    Variable(f"{_PREFIX}STORE_DIR", "store", "Folder or URL of the asset store that outputs go to."),
    Variable(f"{_PREFIX}TIMEOUT_S", "openai.timeout_s", "Seconds for one request to a server."),
    Variable(f"{_HTTP}BASE_URL", "openai.base_url", "The server's `/v1`-style root."),
    Variable("OPENAI_BASE_URL", "openai.base_url", "The same, where nothing else names a server."),
    Variable(
        f"{_HTTP}API_KEY", "openai.api_key", "Key of the server, if `ABSTRACTVISION_BASE_URL` names no other.", True
    ),
    Variable(
        "OPENAI_API_KEY", "openai.api_key", "Key of OpenAI's server, or of `OPENAI_BASE_URL`; for no other.", True
    ),
    Variable("OPENAI_IMAGE_MODEL_ID", "openai.model", "Model of backend `openai`."),
    Variable("OPENAI_IMAGE_MODEL", "openai.model", "The same."),
    Variable(f"{_HTTP}MODELS_PATH", "openai.models_path", "Path of the server's catalog, `/models`."),
    Variable(f"{_HTTP}IMAGES_GENERATIONS_PATH", "openai.image_generations_path", "`/images/generations`."),
    Variable(f"{_HTTP}IMAGES_EDITS_PATH", "openai.image_edits_path", "`/images/edits`."),
    Variable(
        f"{_HTTP}TEXT_TO_VIDEO_PATH", "openai.text_to_video_path", "Path of videos from prompts, if there is one."
    ),
    Variable(
        f"{_HTTP}IMAGE_TO_VIDEO_PATH", "openai.image_to_video_path", "Path of videos from images, if there is one."
    ),
    Variable(f"{_HTTP}IMAGE_TO_VIDEO_MODE", "openai.image_to_video_mode", "`multipart` or `json_b64`."),
    Variable(f"{_LOCAL}MODEL_ID", "diffusers.model", "Model of backend `diffusers`."),
    Variable(f"{_LOCAL}DEVICE", "diffusers.device", "`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."),
    Variable(f"{_LOCAL}TORCH_DTYPE", "diffusers.dtype", "`auto`, `float32`, `float16`, `bfloat16`."),
    Variable(f"{_LOCAL}ALLOW_DOWNLOAD", "diffusers.allow_download", "Whether weights may be downloaded: 1 or 0."),
    Variable(f"{_LOCAL}AUTO_RETRY_FP32", "diffusers.auto_retry_fp32", "Whether black output is made again in float32."),
    Variable(f"{_LOCAL}CACHE_DIR", "diffusers.cache_dir", "Folder of the hub cache."),
    Variable(f"{_LOCAL}REVISION", "diffusers.revision", "Branch, tag or commit of the model."),
    Variable(f"{_LOCAL}VARIANT", "diffusers.variant", "Variant of the weight files, as `fp16`."),
    Variable(f"{_CPP}BIN", "sdcpp.sd_cli_path", "The `sd-cli` program, a name on PATH or a path."),
    Variable(f"{_CPP}MODEL", "sdcpp.model_path", "A whole model in one file."),
    Variable(f"{_CPP}DIFFUSION_MODEL", "sdcpp.diffusion_model", "The denoiser alone; the files below complete it."),
    Variable(f"{_CPP}VAE", "sdcpp.vae", "Its VAE."),
    Variable(f"{_CPP}LLM", "sdcpp.llm", "Its language model."),
    Variable(f"{_CPP}LLM_VISION", "sdcpp.llm_vision", "The language model's vision part."),
    Variable(f"{_CPP}CLIP_L", "sdcpp.clip_l", "Its CLIP-L text encoder."),
    Variable(f"{_CPP}CLIP_G", "sdcpp.clip_g", "Its CLIP-G text encoder."),
    Variable(f"{_CPP}T5XXL", "sdcpp.t5xxl", "Its T5 text encoder."),
    Variable(f"{_PREFIX}TIMEOUT_S", "sdcpp.timeout_s", "Seconds for one request, and for loading the model."),
    Variable(f"{_CPP}EXTRA_ARGS", "sdcpp.extra_args", "More arguments of the program, quoted as in a shell."),
)
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_FLAGS = ("allow_download", "auto_retry_fp32")


def read_choice(environ: Mapping[str, str], *names: str) -> str | None:
    """Return the first of these settings that a variable gives: `"openai.model", "model"`."""
    found = (variable_for(environ, name) for name in names)
    return next((environ[variable.name].strip() for variable in found if variable is not None), None)


def read_backend_fields(environ: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Return the fields of a backend section that variables give, secrets left out.

    Raises:
        SpecError: a value is not what its variable takes.
    """
    fields: dict[str, Any] = {}
    for variable in VARIABLES:
        section, _, field = variable.sets.partition(".")
        if section != kind or field in ("", "model") or field in fields or variable.secret:
            continue
        if text := environ.get(variable.name, "").strip():
            fields[field] = _typed(field, text, variable.name)
    return fields


def find_key_variable(environ: Mapping[str, str], base_url: str) -> str | None:
    """Name the variable that holds the key of a server; a key that was meant for one server goes to no other."""
    from abstractvision_batch.backends.openai_compatible.dialects import is_official_url

    own, own_server = f"{_HTTP}API_KEY", environ.get(f"{_HTTP}BASE_URL")
    for_openai = is_official_url(base_url) or environ.get("OPENAI_BASE_URL") == base_url
    order = [(own, own_server == base_url), ("OPENAI_API_KEY", for_openai), (own, not own_server)]
    return next((name for name, fits in order if fits and environ.get(name)), None)


def variable_for(environ: Mapping[str, str], setting: str) -> Variable | None:
    """Return the variable that gives a setting."""
    candidates = (variable for variable in VARIABLES if variable.sets == setting)
    return next((variable for variable in candidates if environ.get(variable.name, "").strip()), None)


def describe_environment(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that are set and their values, those of secrets masked."""
    found = {
        variable.name: "***" if variable.secret else environ[variable.name]
        for variable in VARIABLES
        if environ.get(variable.name, "").strip()
    }
    return list(found.items())


def _typed(field: str, text: str, name: str) -> Any:
    if field in _FLAGS:
        if text.lower() not in _WORDS:
            raise SpecError(f"{name}: {text!r} is neither yes nor no (write 1 or 0)")
        return _WORDS[text.lower()]
    try:
        if field == "timeout_s":
            return float(text)
        return shlex.split(text) if field == "extra_args" else text
    except ValueError as error:
        expected = "a number of seconds" if field == "timeout_s" else "quoted as in a shell"
        raise SpecError(f"{name}: {text!r} is not {expected}") from error
