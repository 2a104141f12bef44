"""Which files of a model Diffusers loads: configurations, tokenizers, and of the weights one format and one variant.

A repository often holds the same weights several times; only what is loaded is named. Of a checkpoint's configuration
folder all is named that may be loaded: what the file itself has is known only once it is loaded.

Not covered: adapters and transformers that a request asks for in its `extra`; their hashes are in its row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.locate import (
    DENOISERS,
    INDEX,
    ModelFiles,
    find_folder,
    find_lora,
    find_model,
    has_decoder,
)
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.registry.weights import Weights, WeightsPart, hash_part
from abstractvision_batch.storage.file_hashes import hash_file
from abstractvision_batch.types import Task

_Path = TypeVar("_Path", bound=PurePath)

#: `diffusion_pytorch_model.fp16-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json`, and plain ones.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?"
    r"\.(?P<format>safetensors|bin)(?:\.index(?:\.(?P<index_variant>[^.]+))?\.json)?"
)
#: What no pipeline here loads: other frameworks' weights, and what is for people.
_NEVER = (
    ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".onnx_data", ".gguf", ".xml", ".md",
)  # fmt: skip


def describe_weights(config: HuggingFaceDiffusersBackendConfig, task: Task | None) -> Weights:
    """Hash what requests of `task` load; nothing is downloaded.

    Raises:
        DependencyError: something of it is not there.
    """
    config = replace(config.for_kind(task), allow_download=False)
    model = find_model(config)
    parts = [_describe_model(model, config)]
    for name, source in config.components.items():
        parts.append(_describe_folder(f"component {name}", source, name, config))
    if config.rapid_aio_repo is not None:
        denoiser = next((name for name in DENOISERS if name in model.index), DENOISERS[0])
        parts.append(_describe_folder("transformer", config.rapid_aio_repo, denoiser, config))
    adapters = [*config.adapters().items()]
    if config.angles_lora is not None and task == "multi_view_image":
        adapters.append(("angles lora", LoraAdapter(config.angles_lora)))
    for name, adapter in adapters:
        folder, file_name = find_lora(adapter, config)
        parts.append(hash_part(name, adapter.source, folder, [folder / file_name]))
    return Weights(tuple(parts))


def list_weights(model: ModelFiles, config: HuggingFaceDiffusersBackendConfig) -> list[Path]:
    """Return the files of the model's weights that are loaded, the denoiser's first."""
    if model.checkpoint is not None:
        return [model.checkpoint]
    names = sorted(model.index, key=lambda name: (name not in DENOISERS, name))
    folders = (model.folder / name for name in names if isinstance(model.index[name], list))
    return [
        path
        for folder in folders
        for path in (_component_files(folder, config, weights=True) if folder.is_dir() else ())
        if _WEIGHTS.fullmatch(path.name) and path.suffix != ".json"
    ]


def hash_lora(adapter: LoraAdapter, config: HuggingFaceDiffusersBackendConfig) -> str:
    """SHA-256 of an adapter's file."""
    folder, name = find_lora(adapter, config)
    return hash_file(folder / name)


def _describe_model(model: ModelFiles, config: HuggingFaceDiffusersBackendConfig) -> WeightsPart:
    replaced = {*config.components, *_in_checkpoint(model)}
    files = [model.folder / INDEX]
    for name, value in model.index.items():
        if isinstance(value, list) and len(value) >= 2 and None not in value[:2] and name not in config.components:
            files += _component_files(model.folder / name, config, weights=name not in replaced)
    part = hash_part("model", model.name, model.folder, files)
    if model.checkpoint is None:
        return part
    weights = hash_part("model", model.name, model.checkpoint.parent, [model.checkpoint])
    return replace(part, files=(*weights.files, *part.files))


def _in_checkpoint(model: ModelFiles) -> set[str]:
    """Components whose weights are surely the checkpoint's, where there is one."""
    if model.checkpoint is None:
        return set()
    from safetensors import SafetensorError

    try:
        decoder = {"vae"} if has_decoder(model.checkpoint) else set()
    except SafetensorError as exc:
        raise DependencyError(f"{model.checkpoint}: damaged: {exc} (fetch it again)") from exc
    return decoder | {next((name for name in DENOISERS if name in model.index), DENOISERS[0])}


def _describe_folder(part: str, source: str, component: str, config: HuggingFaceDiffusersBackendConfig) -> WeightsPart:
    folder = find_folder(source, config.cache_dir)
    inside = folder / component
    # a component of its own repository is loaded without the model's variant
    files = _component_files(inside if inside.is_dir() else folder, replace(config, variant=None), weights=True)
    return hash_part(part, source, folder, files)


def _component_files(folder: Path, config: HuggingFaceDiffusersBackendConfig, *, weights: bool) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return _loaded_files(files, config, weights=weights)


def choose_component_files(names: Iterable[str], config: HuggingFaceDiffusersBackendConfig) -> list[str]:
    """Return those of a component's files that are loaded, by their names alone."""
    paths = [PurePosixPath(name) for name in sorted(names)]
    shown = [path for path in paths if not path.name.startswith(".")]
    return [str(path) for path in _loaded_files(shown, config, weights=True)]


def _loaded_files(files: Sequence[_Path], config: HuggingFaceDiffusersBackendConfig, *, weights: bool) -> list[_Path]:
    found = {path: match for path in files if (match := _WEIGHTS.fullmatch(path.name))}
    kept = [path for path in files if path not in found and path.suffix not in _NEVER]
    return [*kept, *_loaded_weights(found, config)] if weights else kept


def _loaded_weights(found: dict[_Path, re.Match[str]], config: HuggingFaceDiffusersBackendConfig) -> Iterator[_Path]:
    """Of the weights in one folder, those of the format and the variant that are loaded."""
    formats = {match["format"] for match in found.values()}
    preferred = "safetensors" if config.use_safetensors else "bin"
    variants = {
        path: match["variant"] or match["index_variant"]
        for path, match in found.items()
        if match["format"] == preferred or preferred not in formats
    }
    chosen = config.variant if config.variant in variants.values() else None
    for path, variant in variants.items():
        if variant == chosen or chosen not in variants.values():
            yield path
