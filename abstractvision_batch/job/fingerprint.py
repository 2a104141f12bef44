"""Which fields of a spec change pixels, and the fingerprint of those that do.

*Identity* fields change pixels, or which requests there are; *runtime* fields do not. Every leaf field of `JobSpec` is
in exactly one of the two tables below, and a test fails for one that is not.

The fingerprint hashes identity fields that differ from their defaults. So a new field leaves old fingerprints alone,
and writing a default out changes nothing; in return, changing the default or the meaning of an identity field takes a
new `FINGERPRINT_VERSION`, which a test demands. Prompts enter by the digest of their dataset, not by the path of it,
and the model's card, if given, by what requests take from it: parameter defaults and what its backend runs.

Not covered: weights (`run.json` records their revision and digest), versions of packages, the GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from abstractvision_batch.documents.type_words import is_model, members, unwrap
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.registry.cards import ModelCard
from abstractvision_batch.registry.constraints import default_params

FINGERPRINT_VERSION = 2
"""To be raised when equal specs of two versions of this package would give other pixels or other requests.

A run is resumed, extended and verified under the version that it was planned with (`LoadedSpec.under`). Version 2: the
seeds that `matrix` and `zip` list are used as they are; the cells of tables are typed, spaces around them are not part
of them, and a separator other than the comma is found; an empty negative prompt of a row says that there is none; an
inline list of file names is read as files.
"""

#: Dotted names; a backend's own fields are named `backend.<kind>.<field>`.
IDENTITY_FIELDS: tuple[str, ...] = (
    "version",
    "task",
    "model",
    "backend.kind",
    "backend.diffusers.model_path",
    "backend.diffusers.config_path",
    "backend.diffusers.revision",
    "backend.diffusers.variant",
    "backend.diffusers.device",  # without its number: cuda:1 computes what cuda:0 does
    "backend.diffusers.dtype",
    "backend.diffusers.scheduler",
    "backend.diffusers.loras",
    "backend.diffusers.rapid_aio_repo",
    "backend.diffusers.threads",
    "backend.diffusers.attention_slicing",
    "backend.diffusers.vae_slicing",
    "backend.diffusers.vae_tiling",
    "backend.diffusers.quantization",
    "backend.diffusers.torch_compile",
    "backend.diffusers.attention_backend",
    "backend.diffusers.auto_retry_fp32",
    "backend.openai.served_model",
    "backend.openai.dialect",
    "backend.openai.request_shape",
    "backend.openai.field_names",
    "backend.openai.video_mode",
    "backend.sdcpp.model_path",
    "backend.sdcpp.diffusion_model",
    "backend.sdcpp.high_noise_diffusion_model",
    "backend.sdcpp.vae",
    "backend.sdcpp.taesd",
    "backend.sdcpp.clip_l",
    "backend.sdcpp.clip_g",
    "backend.sdcpp.clip_vision",
    "backend.sdcpp.t5xxl",
    "backend.sdcpp.llm",
    "backend.sdcpp.llm_vision",
    "backend.sdcpp.lora_dir",
    "backend.sdcpp.loras",
    "backend.sdcpp.weight_type",
    "backend.sdcpp.sampler",
    "backend.sdcpp.scheduler",
    "backend.sdcpp.eta",
    "backend.sdcpp.flow_shift",
    "backend.sdcpp.rng",
    "backend.sdcpp.flash_attention",
    "backend.sdcpp.vae_tiling",
    "backend.sdcpp.extra_args",
    "prompts.format",
    "prompts.comments",
    "prompts.fields.prompt",
    "prompts.fields.id",
    "prompts.fields.negative_prompt",
    "prompts.fields.seed",
    "prompts.fields.image",
    "prompts.fields.mask",
    "prompts.fields.width",
    "prompts.fields.height",
    "prompts.fields.steps",
    "prompts.fields.guidance_scale",
    "prompts.fields.strength",
    "prompts.fields.num_frames",
    "prompts.fields.fps",
    "prompts.fit",  # error and stretch are one: where error lets a picture pass, both give the same pixels
    "prompts.template",
    "prompts.where",
    "prompts.shuffle",
    "prompts.limit",
    "prompts.drop",
    "prompts.rename",
    "params.negative_prompt",
    "params.width",
    "params.height",
    "params.steps",
    "params.guidance_scale",
    "params.strength",
    "params.num_frames",
    "params.fps",
    "params.seed",
    "params.extra",
    "matrix",  # with the order of its keys, which is the order of the plan
    "zip",
    "samples_per_prompt",
    "output.image_format",  # png and webp are one: both are lossless
    "output.jpeg_quality",  # of jpeg only
    "execution.batch_size",
)

RUNTIME_FIELDS: tuple[str, ...] = (
    "name",
    "description",
    "backend.diffusers.allow_download",
    "backend.diffusers.cache_dir",
    "backend.diffusers.offload",
    "backend.openai.base_url",  # a server comes back under another port; what it serves is served_model
    "backend.openai.api_key",
    "backend.openai.headers",
    "backend.openai.timeout_s",
    "backend.openai.connect_timeout_s",
    "backend.openai.retries",
    "backend.openai.max_concurrency",
    "backend.openai.max_response_bytes",
    "backend.openai.reply_media",
    "backend.openai.allow_private_urls",
    "backend.openai.price.request_usd",
    "backend.openai.price.million_text_tokens_usd",
    "backend.openai.price.million_image_tokens_usd",
    "backend.openai.price.million_output_tokens_usd",
    "backend.openai.known_fields",
    "backend.openai.repeat_unanswered",
    "backend.openai.size_separator",
    "backend.openai.idempotency_key",
    "backend.openai.image_generations_path",
    "backend.openai.image_edits_path",
    "backend.openai.models_path",
    "backend.openai.text_to_video_path",
    "backend.openai.image_to_video_path",
    "backend.openai.image_to_video_mode",
    "backend.openai.videos_path",
    "backend.openai.poll_interval_s",
    "backend.procedural.delay_s",
    "backend.procedural.load_s",
    "backend.procedural.fail_when",
    "backend.procedural.crash_when",
    "backend.procedural.hang_when",
    "backend.procedural.journal_path",
    "backend.sdcpp.mode",  # the modes give the same pixels
    "backend.sdcpp.offload_to_cpu",
    "backend.sdcpp.clip_on_cpu",
    "backend.sdcpp.vae_on_cpu",
    "backend.sdcpp.mmap",
    "backend.sdcpp.threads",
    "backend.sdcpp.timeout_s",
    "backend.sdcpp.sd_cli_path",
    "backend.sdcpp.sd_server_path",
    "registry.paths",
    "prompts.source",  # the digest of what is there is identity
    "prompts.storage_options",
    "output.path",
    "output.embed_metadata",
    "output.layout",
    "output.storage_options",
    "execution.executor",
    "execution.shard_size",
    "execution.actors",
    "execution.gpus_per_actor",
    "execution.cpus_per_actor",
    "execution.accelerator_type",
    "execution.resources",
    "execution.runtime_env.env_vars",
    "execution.runtime_env.working_dir",
    "execution.runtime_env.py_modules",
    "execution.runtime_env.py_executable",
    "execution.runtime_env.excludes",
    "execution.runtime_env.pip",
    "execution.runtime_env.uv",
    "execution.runtime_env.conda",
    "execution.runtime_env.container",
    "execution.runtime_env.image_uri",
    "execution.runtime_env.java_jars",
    "execution.runtime_env.worker_process_setup_hook",
    "execution.runtime_env.config",
    "execution.address",
    "execution.node_wait_s",
    "execution.max_attempts",
    "execution.max_failed",
    "execution.budget.requests",
    "execution.budget.usd",
    "execution.budget.wall_s",
    "execution.request_timeout_s",
    "execution.shard_timeout_s",
    "execution.drain_timeout_s",
    "execution.writer_threads",
    "execution.batch_canary",
    "execution.stop_when_all_fail",
    "execution.seed_canary",
)

#: What a card says of a backend for people or for scheduling.
_CARD_RUNTIME_KEYS = frozenset({"memory_bytes", "notes", "sources", "gated", "price", "output_size", "packages"})


def fingerprint(
    spec: JobSpec, *, prompts_digest: str, card: ModelCard | None = None, version: int = FINGERPRINT_VERSION
) -> str:
    """Hash of everything that changes pixels or requests, 64 hex digits; equal on every machine.

    Args:
        spec: a checked spec.
        prompts_digest: digest of the prompt dataset's bytes.
        card: the model's card; leave it out where only specs are compared.
        version: the fingerprint's version, an earlier one where the fingerprint of an old run is computed again.
    """
    identity = {
        "fingerprint_version": version,
        "spec": spec_identity(spec),
        "prompts": prompts_digest,
        "card": None if card is None else card_identity(card, spec),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def spec_identity(spec: JobSpec) -> dict[str, Any]:
    """Identity fields that differ from their defaults, as JSON types under their dotted names."""
    found = {name: _json_value(name, value) for name, value in _differing(spec) if name in _IDENTITY}
    image_format = found.pop("output.image_format", None)
    if image_format == "jpeg":
        found["output.image_format"] = image_format
    else:
        found.pop("output.jpeg_quality", None)
    if found.get("prompts.fit") == "stretch":
        del found["prompts.fit"]
    if found.get("backend.openai.request_shape") == "auto":  # once the default
        del found["backend.openai.request_shape"]
    if found.get("backend.diffusers.device") is not None:
        found["backend.diffusers.device"] = found["backend.diffusers.device"].partition(":")[0]
    return found


def backend_identity(spec: JobSpec) -> dict[str, Any]:
    """Identity part of the backend: its kind, and its identity fields that differ from their defaults."""
    kind = spec.backend.kind
    prefix = f"backend.{kind}."
    own = {name.removeprefix(prefix): value for name, value in spec_identity(spec).items() if name.startswith(prefix)}
    return {"kind": kind, **own}


def card_identity(card: ModelCard, spec: JobSpec) -> dict[str, Any]:
    """What requests take from the card: parameter defaults of the task, and what the backend runs."""
    needs = card.backends.get(spec.backend.kind, {})
    return {
        "params": default_params(card, spec.task) if spec.task in card.tasks else {},
        "backend": {key: value for key, value in needs.items() if key not in _CARD_RUNTIME_KEYS},
    }


def leaf_values(spec: JobSpec) -> dict[str, Any]:
    """Value of every field as JSON types, defaults written out, under the names that the tables use."""
    return {name: _json_value(name, value) for name, value, _ in _leaves(spec, "")}


def leaf_fields(model: type[BaseModel] = JobSpec, prefix: str = "") -> Iterator[str]:
    """Dotted names of all leaf fields of the spec; those of a backend under its kind."""
    for name, info in model.model_fields.items():
        types = [unwrap(member)[0] for member in members(info.annotation)]
        if isinstance(info.discriminator, str):
            yield f"{prefix}{name}.{info.discriminator}"
            for kind in types:
                tag = kind.model_fields[info.discriminator].default
                below = (leaf for leaf in leaf_fields(kind) if leaf != info.discriminator)
                yield from (f"{prefix}{name}.{tag}.{leaf}" for leaf in below)
        elif _is_section(info):
            yield from leaf_fields(types[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


_IDENTITY = frozenset(IDENTITY_FIELDS)


def _is_section(info: FieldInfo) -> bool:
    """Whether the field has fields of its own, and no other form."""
    types = [unwrap(member)[0] for member in members(info.annotation)]
    return len(types) == 1 and is_model(types[0]) and types[0] is not FromEnv


def _differing(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """Leaf fields whose value is not their default."""
    return ((name, value) for name, value, is_default in _leaves(spec, "") if not is_default)


def _leaves(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any, bool]]:
    """Name and value of each leaf field, and whether that is its default."""
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(info.discriminator, str):
            kind = getattr(value, info.discriminator)
            yield f"{prefix}{name}.{info.discriminator}", kind, False
            below = _leaves(value, f"{prefix}{name}.{kind}.")
            yield from (leaf for leaf in below if leaf[0] != f"{prefix}{name}.{kind}.{info.discriminator}")
        elif isinstance(value, BaseModel) and _is_section(info):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            is_default = not info.is_required() and value == info.get_default(call_default_factory=True)
            yield f"{prefix}{name}", value, is_default


def _json_value(name: str, value: Any) -> Any:
    if name == "matrix":
        return [[param, [_number(param, item) for item in items]] for param, items in value.items()]
    if name == "zip":
        return {param: [_number(param, item) for item in items] for param, items in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    if isinstance(value, dict):
        return {
            key: item.model_dump(mode="json") if isinstance(item, BaseModel) else item for key, item in value.items()
        }
    return value


def _number(param: str, value: Any) -> Any:
    """A matrix of an unchecked spec may hold 3 where 3.0 is meant."""
    return float(value) if param in ("guidance_scale", "strength") and isinstance(value, int) else value
