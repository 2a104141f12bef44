"""What a job needs from outside of its spec: secrets, a GPU, files of weights, and the small files that it names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from abstractvision_batch.errors import SpecError
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.plan.read import iter_rows
from abstractvision_batch.plan.sources import find_files, is_remote
from abstractvision_batch.registry.cards import CARD_SUFFIXES
from abstractvision_batch.scratch import scratch_folder
from abstractvision_batch.spec.backend_sections import DiffusersBackendSpec, SdcppBackendSpec
from abstractvision_batch.spec.fields import FromEnv
from abstractvision_batch.spec.load import SDCPP_PATHS, LoadedSpec


@dataclass(frozen=True, slots=True)
class JobFiles:
    """A spec and the files that it names, as a folder that can be put elsewhere: paths in it stay true."""

    spec: str
    """Path of the spec in the folder."""
    registry: tuple[str, ...]
    """Paths in the folder of what `--registry` named."""
    files: Mapping[str, Path]
    """Every file by its path in the folder."""


def find_secrets(spec: BaseModel) -> list[str]:
    """Environment variables that the spec names as secrets, sorted."""
    return sorted(set(_secrets(spec)))


def uses_gpu(loaded: LoadedSpec) -> bool:
    """Whether the job's workers want a GPU, as far as the spec says."""
    wanted = loaded.spec.execution.gpus_per_actor
    if wanted != "auto":
        return wanted > 0
    device = str(getattr(loaded.spec.backend, "device", "cpu"))
    return device == "auto" or device.startswith("cuda")


def local_weights(loaded: LoadedSpec) -> dict[str, str]:
    """Files and folders of weights that the backend reads: field → path, made absolute."""
    backend = loaded.backend
    if isinstance(backend, SdcppBackendSpec):
        names: Sequence[str] = SDCPP_PATHS
    elif isinstance(backend, DiffusersBackendSpec):
        names = ("model_path", "config_path", "rapid_aio_repo", "cache_dir")
    else:
        return {}
    found = {f"backend.{name}": getattr(backend, name) for name in names if getattr(backend, name) is not None}
    for number, lora in enumerate(backend.loras):
        found[f"backend.loras[{number}].source"] = lora.source
    return {field: path for field, path in found.items() if Path(path).is_absolute()}  # else an id of the hub


def collect_files(loaded: LoadedSpec, registry: Sequence[str] = ()) -> JobFiles:
    """The spec, its local prompt files and input images, and its model cards.

    Raises:
        SpecError: a file is named by an absolute path, which would name another one elsewhere; or a prompt is wrong.
    """
    spec = Path(os.path.abspath(loaded.path))
    given = [Path(os.path.abspath(path)) for path in registry]
    found = [spec, *_prompt_files(loaded), *_card_files(loaded), *(file for path in given for file in _cards_in(path))]
    if has_images := _has_input_images(loaded):
        found += _input_images(loaded)
    folders = [*(file.parent for file in found), *(path if path.is_dir() else path.parent for path in given)]
    root = Path(os.path.commonpath(folders))
    names = {file.relative_to(root).as_posix(): file for file in found}
    inside = tuple(path.relative_to(root).as_posix() for path in given)
    files = JobFiles(spec.relative_to(root).as_posix(), inside, names)
    if has_images:
        _require_images_inside(loaded, files)
    return files


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, FromEnv):
        yield value.env
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item)


def _prompt_files(loaded: LoadedSpec) -> list[Path]:
    source = loaded.spec.prompts.source
    if not isinstance(source, str) or is_remote(source):
        return []
    _require_relative(loaded, ("prompts", "source"), source)
    return [Path(os.path.abspath(file.path)) for file in find_files(loaded, Path())]


def _card_files(loaded: LoadedSpec) -> Iterator[Path]:
    for path in loaded.spec.registry.paths:
        _require_relative(loaded, ("registry", "paths"), path)
        yield from _cards_in(Path(os.path.abspath(loaded.base_dir / path)))


def _cards_in(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in CARD_SUFFIXES) if path.is_dir() else [path]


def _has_input_images(loaded: LoadedSpec) -> bool:
    source = loaded.spec.prompts.source
    return not loaded.spec.task.startswith("text_to_") and not (isinstance(source, str) and is_remote(source))


def _input_images(loaded: LoadedSpec) -> list[Path]:
    """Input images and masks on this machine; found by planning, which checks every prompt too."""
    with scratch_folder() as folder:
        summary = build_plan(loaded, folder)
        rows = iter_rows(lambda name: (folder / name).open("rb"), summary)
        named = {row[column] for row in rows for column in ("input_image", "mask_image")}
    return sorted(Path(os.path.abspath(url)) for url in named if url is not None and not is_remote(url))


def _require_images_inside(loaded: LoadedSpec, files: JobFiles) -> None:
    """Refuse images that are not found in a copy of the folder: those that are named by absolute paths."""
    with scratch_folder() as folder:
        for name, path in files.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        outside = _input_images(replace(loaded, base_dir=(folder / files.spec).parent))
        for image in outside:
            if not image.is_relative_to(folder):
                _require_relative(loaded, ("prompts", "source"), str(image))


def _require_relative(loaded: LoadedSpec, field: tuple[str, ...], path: str) -> None:
    if Path(path).expanduser().is_absolute():
        raise SpecError(
            f"{loaded.positions.where(field)}: {'.'.join(field)}: {path} is an absolute path, which names nothing "
            "elsewhere (write it relative to the spec, or use a URL)"
        )
