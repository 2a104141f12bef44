"""Which kind of server this is, by what it says of itself: its catalog first, then paths that only one kind has.

Not covered: what follows from it (`job.dialects`), and OpenAI itself, which is known by its host.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from abstractvision_batch.backends.openai_compatible.failures import Reply, redact
from abstractvision_batch.backends.openai_compatible.replies import read_json
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.types import ProviderModelInfo

#: For all questions together; they are asked at once.
PROBE_TIMEOUT_S = 10.0
#: The catalog's `owned_by` of those that write their name there; vLLM itself has no images.
_OWNERS = {"vllm": "vllm_omni", "vllm-omni": "vllm_omni", "sglang": "sglang", "xinference": "xinference"}
#: sd-server's one model.
_SD_SERVER_MODEL = "sd-cpp-local"
_MAX_WORD = 200

Get = Callable[[str], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of itself."""

    dialect: str | None = None
    """Of `job.dialects`; None where nothing tells."""
    says: Mapping[str, str] = field(default_factory=dict)
    """`version`, and `model_root`: what it loaded for the model, where it names that."""


async def identify(
    get: Get,
    catalog: Reply | None,
    models: list[ProviderModelInfo],
    *,
    model_id: str | None,
    expected: str | None = None,
) -> Identity:
    """Recognise a server; what fails or takes too long tells nothing.

    Args:
        get: Reads a path of the server; one that begins with two slashes is under its root.
        catalog: Its reply with its models; None where it gave none.
        models: The models of it.
        model_id: The model that is asked for.
        expected: The dialect that it ought to have, so that no path of another kind is asked.
    """
    found = None if catalog is None else _by_catalog(catalog, models)
    root = _model_root(models, model_id)
    if found == "sd_server":  # it has nothing more to say
        return Identity(found, root)
    likely = found or expected
    probes = [probe for probe in _PROBES if probe.dialect == likely or (likely is None and probe.tells)]
    answers = await asyncio.gather(*(_ask(get, probe.path) for probe in probes))
    for probe, answer in zip(probes, answers, strict=True):
        if answer is not None and (says := probe.read(answer)) is not None:
            return Identity(probe.dialect, {**says, **root})
    return Identity(found, root)


def _by_catalog(catalog: Reply, models: list[ProviderModelInfo]) -> str | None:
    if any(name.startswith("x-litellm-") for name in catalog.headers):
        return "litellm"
    if [model.id for model in models] == [_SD_SERVER_MODEL]:
        return "sd_server"
    owners = {_OWNERS.get((model.owned_by or "").lower()) for model in models}
    return owners.pop() if len(owners) == 1 else None


def _model_root(models: list[ProviderModelInfo], model_id: str | None) -> dict[str, str]:
    listed = [model for model in models if model.id == model_id] or (models if len(models) == 1 else [])
    root = listed[0].raw.get("root") if listed else None
    return {"model_root": redact(root[:_MAX_WORD])} if isinstance(root, str) and root else {}


async def _ask(get: Get, path: str) -> Reply | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await get(path)
    except (AbstractVisionError, TimeoutError):
        return None


def _version(payload: Mapping[str, Any]) -> dict[str, str]:
    version = payload.get("version")
    return {"version": redact(version[:_MAX_WORD])} if isinstance(version, str) else {}


def _read_object(reply: Reply) -> dict[str, Any]:
    try:
        return read_json(reply)
    except AbstractVisionError:
        return {}


def _sglang(reply: Reply) -> dict[str, str] | None:
    info = _read_object(reply)
    if "model_path" not in info:
        return None
    return _version(info)


def _localai(reply: Reply) -> dict[str, str] | None:
    info = _read_object(reply)
    return {} if isinstance(info.get("backends"), list) and "loaded_models" in info else None


def _litellm(reply: Reply) -> dict[str, str] | None:
    version = reply.headers.get("x-litellm-version")
    if version is not None:
        return {"version": redact(version[:_MAX_WORD])}
    try:
        alive = json.loads(reply.body)
    except ValueError:
        alive = None
    return {} if alive == "I'm alive!" else None


def _vllm(reply: Reply) -> dict[str, str] | None:
    info = _read_object(reply)
    return _version(info) if set(info) == {"version"} else None


def _xinference(reply: Reply) -> dict[str, str] | None:
    info = _read_object(reply)
    return _version(info) if "full-revisionid" in info else None


@dataclass(frozen=True, slots=True)
class _Probe:
    dialect: str
    path: str
    read: Callable[[Reply], dict[str, str] | None]
    """What the reply says; None where it is not this kind's."""
    tells: bool = True
    """Whether a reply that can be read is of this kind; else it only has its version."""


#: Asked, in this order of belief, where the catalog does not tell; else the one's own, for its version.
_PROBES = (
    _Probe("litellm", "//health/liveliness", _litellm),
    _Probe("sglang", "//server_info", _sglang),
    _Probe("sglang", "//model_info", _sglang),
    _Probe("localai", "//system", _localai),
    _Probe("xinference", "/cluster/version", _xinference),
    _Probe("vllm_omni", "//version", _vllm, tells=False),
)
