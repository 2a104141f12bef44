"""What a job needs from outside of its spec: secrets, a GPU, files of weights, and the small files that it names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from abstractvision_batch.backends.table import BACKENDS
from abstractvision_batch.errors import SpecError
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.plan.read import iter_rows
from abstractvision_batch.plan.sources import find_files, is_remote
from abstractvision_batch.registry.cards import CARD_SUFFIXES
from abstractvision_batch.scratch import scratch_folder
from abstractvision_batch.spec.backend_sections import DiffusersBackendSpec, SdcppBackendSpec
from abstractvision_batch.spec.env import INTERPOLATED_FIELDS, interpolate
from abstractvision_batch.spec.fields import FromEnv
from abstractvision_batch.spec.load import SDCPP_PATHS, LoadedSpec, read_values

#: URLs of this machine's own files and memory.
_HERE = ("file:", "local:", "memory:")
#: Which extra reads and writes a URL.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


@dataclass(frozen=True, slots=True)
class JobFiles:
    """A spec and the files that it names, as a folder that can be put elsewhere: paths in it stay true."""

    spec: str
    """Path of the spec in the folder."""
    registry: tuple[str, ...]
    """Paths in the folder of what `--registry` named."""
    files: Mapping[str, bytes]
    """Every file by its path in the folder."""
    overrides: tuple[str, ...] = ()
    """`--set` of what a path here does not mean there."""
    notes: tuple[str, ...] = ()
    """What is not among the files, and must be there."""


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


def needed_extras(loaded: LoadedSpec) -> list[str]:
    """Extras of the package that the job's machines need, sorted."""
    spec = loaded.spec
    extras: set[str] = {spec.backend.kind} if BACKENDS[spec.backend.kind].install else set()
    if spec.execution.executor == "ray":
        extras.add("ray")
    source = spec.prompts.source
    for url in (spec.output.path, source if isinstance(source, str) else ""):
        extras |= {extra for scheme, extra in _EXTRAS.items() if url.startswith(f"{scheme}://")}
    return sorted(extras)


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
        found[f"backend.loras[{number}].source"] = lora.source  # type: ignore[attr-defined]
    return {field: path for field, path in found.items() if Path(path).is_absolute()}  # else an id of the hub


def restate_variables(spec: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """`--set` of every field that names a variable, with what it holds here: a scheduler has another environment."""
    data = read_values(spec, overrides).data
    replaced, _ = interpolate(data)
    restated = []
    for section, name in INTERPOLATED_FIELDS:
        before, after = (values.get(section, {}).get(name) for values in (data, replaced))
        if before != after:
            # What a variable held is no reference itself.
            restated.append(f"{section}.{name}={json.dumps(after, ensure_ascii=False).replace('${', '$${')}")
    return restated


def require_output_elsewhere(loaded: LoadedSpec, why: str, mounts: Sequence[str] = ()) -> None:
    """Refuse an output on a disk that is not there afterwards.

    Args:
        loaded: The spec.
        why: What becomes of the disk where the job runs.
        mounts: Folders there that stay.

    Raises:
        SpecError: the output is neither a URL nor below a mount.
    """
    path = loaded.spec.output.path
    if (is_remote(path) and not path.startswith(_HERE)) or any(
        PurePosixPath(path).is_relative_to(mount) for mount in mounts
    ):
        return
    place = loaded.positions.where(("output", "path"))
    hint = "a URL, or a folder on a --volume" if why.startswith("a pod") else "a URL"
    raise SpecError(f"{place}: output.path: {path} would be lost: {why} ({hint})")


def collect_files(loaded: LoadedSpec, registry: Sequence[str] = ()) -> JobFiles:
    """The spec, its local prompt files and input images, and its model cards.

    Raises:
        SpecError: a file is named by an absolute path, which would name another one elsewhere; or a prompt is wrong.
    """
    spec = _plain(loaded.path)
    given = [_plain(path) for path in registry]
    found = [spec, *_prompt_files(loaded), *_card_files(loaded), *(file for path in given for file in _cards_in(path))]
    if has_images := _has_input_images(loaded):
        found += _input_images(loaded)
    folders = [*(file.parent for file in found), *(path if path.is_dir() else path.parent for path in given)]
    root = Path(os.path.commonpath(folders))
    names = {file.relative_to(root).as_posix(): file.read_bytes() for file in found}
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
    if isinstance(source, str) and source.startswith(_HERE):
        place = loaded.positions.where(("prompts", "source"))
        raise SpecError(f"{place}: prompts.source: {source} is on this machine alone (a path relative to the spec)")
    if not isinstance(source, str) or is_remote(source):
        return []
    _require_relative(loaded, ("prompts", "source"), source)
    return [_plain(file.path) for file in find_files(loaded, Path())]


def _card_files(loaded: LoadedSpec) -> Iterator[Path]:
    for path in loaded.spec.registry.paths:
        _require_relative(loaded, ("registry", "paths"), path)
        yield from _cards_in(_plain(loaded.base_dir / path))


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
    return sorted(_plain(url) for url in named if url is not None and not is_remote(url))


def _require_images_inside(loaded: LoadedSpec, files: JobFiles) -> None:
    """Refuse images that are not found in a copy of the folder: those that are named by absolute paths."""
    with scratch_folder() as folder:
        for name, content in files.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
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


def _plain(path: str | Path) -> Path:
    """Absolute and without `..`, as it is written: a link stays one."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))
