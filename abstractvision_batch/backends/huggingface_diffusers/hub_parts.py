"""Which repositories of the hub a model needs, and which of their files, before anything of them is here.

Of a repository that holds the same weights several times, only those files are named that are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.derived_card import configuration_repository
from abstractvision_batch.backends.huggingface_diffusers.locate import DESCRIPTIONS, INDEX, checkpoint_of
from abstractvision_batch.backends.huggingface_diffusers.weight_files import choose_component_files
from abstractvision_batch.storage.hub import HubPart
from abstractvision_batch.types import Task

_ROOT_FILES = (INDEX, "README.md")


def find_parts(config: HuggingFaceDiffusersBackendConfig, task: Task | None) -> Iterator[HubPart]:
    """Yield what requests of a task need from the hub, all tasks where none is named; local files are left out."""
    at = {"cache_dir": config.cache_dir}
    if (checkpoint := checkpoint_of(config)) is not None:
        repo_id = config.repo_id or configuration_repository(checkpoint)
        yield HubPart("configuration", repo_id, _choose_descriptions, config.revision, **at)
    elif config.path is None:
        configs = [config.for_kind(task)] if task is not None or not config.repo_ids else []
        configs = configs or [config.for_kind(kind) for kind in config.repo_ids]
        for one in dict.fromkeys(found.repo_id or found.model_id for found in configs):
            if not _is_here(one):
                yield HubPart("model", one, partial(_choose_pipeline, config=config), config.revision, **at)
    # a component of its own repository is loaded without the model's variant
    plain = replace(config, variant=None)
    for name, source in config.components.items():
        if not _is_here(source):
            yield HubPart(f"component {name}", source, partial(_choose_component, name=name, config=plain), **at)
    if config.rapid_aio_repo is not None and not _is_here(config.rapid_aio_repo):
        choose = partial(_choose_component, name="transformer", config=plain)
        yield HubPart("transformer", config.rapid_aio_repo, choose, **at)
    adapters = [*config.adapters().items()]
    if config.angles_lora is not None and task in (None, "multi_view_image"):
        adapters.append(("angles lora", LoraAdapter(config.angles_lora)))
    for part, adapter in adapters:
        if not _is_here(adapter.source):
            yield HubPart(part, adapter.source, partial(_choose_adapter, adapter=adapter), **at)


def _is_here(source: str) -> bool:
    return Path(source).expanduser().exists()


def _choose_descriptions(names: list[str], read: Callable[[str], Any]) -> list[str]:
    return [name for name in names if any(PurePosixPath(name).match(pattern) for pattern in DESCRIPTIONS)]


def _choose_pipeline(
    names: list[str], read: Callable[[str], Any], *, config: HuggingFaceDiffusersBackendConfig
) -> list[str]:
    """Return the files of the components that the repository's index names; of any other repository, what it has."""
    start = f"{config.subfolder}/" if config.subfolder else ""
    if start + INDEX not in names:
        return choose_component_files(names, config)
    index = read(start + INDEX)
    chosen = [start + name for name in _ROOT_FILES if start + name in names]
    for name, value in index.items():
        if isinstance(value, list) and None not in value[:2] and name not in config.components:
            inside = [one for one in names if one.startswith(f"{start}{name}/")]
            chosen += choose_component_files(inside, config)
    return chosen


def _choose_component(
    names: list[str], read: Callable[[str], Any], *, name: str, config: HuggingFaceDiffusersBackendConfig
) -> list[str]:
    inside = [one for one in names if one.startswith(f"{name}/")]
    return choose_component_files(inside or [one for one in names if "/" not in one], config)


def _choose_adapter(names: list[str], read: Callable[[str], Any], *, adapter: LoraAdapter) -> list[str]:
    start = f"{adapter.subfolder}/" if adapter.subfolder else ""
    if adapter.weight_name is not None:
        return [name for name in names if name == start + adapter.weight_name]
    return [
        name for name in names if PurePosixPath(name).parent == PurePosixPath(start) and name.endswith(".safetensors")
    ]
