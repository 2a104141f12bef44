"""Where an image or video made at the command line goes: a file that is named, a new one, or an asset store.

Not covered: the artifacts of a run (`execute`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.media.images import EXTENSIONS, ImageFormat, decode_image, encode_image
from abstractvision_batch.media.metadata.embed import embed_generation
from abstractvision_batch.media.metadata.payload import describe_generation
from abstractvision_batch.media.probe import probe
from abstractvision_batch.storage.asset_store import AssetStore, FsspecAssetStore, LocalAssetStore
from abstractvision_batch.storage.regular import read_regular
from abstractvision_batch.types import GeneratedAsset, Task
from abstractvision_batch.vision_manager import Output

MAX_STEM = 48
_OPENER_WAIT_S = 5.0
_FORMATS: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_VIDEOS = (".mp4", ".webm")
#: A manifest's name of each input.
_INPUTS = {"image": "input_image", "reference_image": "input_image", "mask": "mask_image"}
_OPENERS = {"darwin": "open", "win32": "explorer"}


def check_file_name(path: Path, task: Task) -> None:
    """Check before anything is generated that a file can hold what the task makes.

    Raises:
        SpecError: its extension is another's, or its folder does not exist.
    """
    allowed = _VIDEOS if task.endswith("video") else tuple(_FORMATS)
    if path.suffix.lower() not in allowed:
        raise SpecError(f"{path}: the name of what {task} makes ends in {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise SpecError(f"{path}: there is no folder {path.parent}")


def encode_for(path: Path, asset: GeneratedAsset) -> GeneratedAsset:
    """Encode an image in the format that the file's extension names; a video stays what it is."""
    wanted = _FORMATS.get(path.suffix.lower())
    if wanted is None or EXTENSIONS.get(asset.mime_type) == EXTENSIONS[f"image/{wanted}"]:
        return asset
    data = encode_image(decode_image(asset.data, name="generated image"), wanted)
    return replace(asset, data=data, mime_type=f"image/{wanted}")


def with_parameters(asset: GeneratedAsset, kind: str) -> GeneratedAsset:
    """Write what made an asset into it, by what the manager says of it and the backend's kind."""
    made_by = asset.metadata["generation"]
    asked = {"task": made_by["task"], "model": made_by["model"], "backend": kind, **made_by["parameters"]}
    inputs = made_by.get("inputs", {})
    asked |= {_INPUTS[name]: f"sha256:{inputs[name]['sha256']}" for name in inputs}
    info = probe(asset.data, asset.mime_type)
    described = describe_generation(asked, asset.metadata, width=info.width, height=info.height)
    return replace(asset, data=embed_generation(asset.data, described).data)


def write_output(asset: GeneratedAsset, path: Path) -> Path:
    """Write to a file that may exist; a video's extension becomes its own.

    Raises:
        StorageError: it cannot be written.
    """
    own = EXTENSIONS.get(asset.mime_type, path.suffix)
    if path.suffix.lower() not in _FORMATS and own != path.suffix.lower():
        path = path.with_suffix(own)
    try:
        path.write_bytes(asset.data)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def write_new_file(asset: GeneratedAsset, folder: Path, stem: str) -> Path:
    """Write to a file that did not exist: `stem.png`, else `stem-2.png` and so on.

    Raises:
        StorageError: it cannot be written.
    """
    extension = EXTENSIONS.get(asset.mime_type, ".bin")
    for name in _names(stem):
        path = folder / f"{name}{extension}"
        try:
            with path.open("xb") as stream:
                stream.write(asset.data)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        return path
    raise AssertionError("unreachable")


def numbered(path: Path, label: str) -> Path:
    """`fox.png`, `back` → `fox-back.png`."""
    return path.with_name(f"{path.stem}-{label}{path.suffix}")


def stem_of(prompt: str, seed: object) -> str:
    """Return a file's name for a prompt: `a-red-fox-7`."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:MAX_STEM].strip("-") or "output"
    return words if seed is None else f"{words}-{seed}"


def keep_output(
    one: Output,
    into: AssetStore | None,
    output: Path | None,
    name: str,
    number: int | None,
    embed_as: str | None = None,
) -> dict[str, Any]:
    """Write an output to its file, unless it is in a store already, and say where it is.

    Args:
        one: what the manager returned.
        into: the store that the manager had.
        output: the file; None: a new one in the current folder.
        name: what a new file is named by.
        number: of the output where there are several, from 0.
        embed_as: the backend's kind as a file's metadata have it; None writes none into the file.
    """
    if isinstance(one, dict):
        path = _path_in(into, one["$artifact"])
        generation = one.get("metadata", {}).get("generation", {})
        return {"artifact": one, "path": path, "seed": generation.get("seed")}
    asset = one if output is None else encode_for(output, one)
    if embed_as is not None:
        asset = with_parameters(asset, embed_as)
    generation = asset.metadata.get("generation", {})
    angle = asset.metadata.get("angle")
    seed = generation.get("seed")
    labels = [str(label) for label in (None if number is None else number + 1, angle) if label is not None]
    if output is None:
        written = write_new_file(asset, Path(), stem_of(" ".join([name, *([str(angle)] if angle else [])]), seed))
    else:
        written = write_output(asset, numbered(output, "-".join(labels)) if labels else output)
    info = probe(asset.data, asset.mime_type)
    return {
        "path": str(written),
        "seed": seed,
        "content_type": asset.mime_type,
        "size_bytes": written.stat().st_size,
        "width": info.width,
        "height": info.height,
        "frames": info.frames,
        "metadata": asset.metadata,
    }


def _path_in(into: AssetStore | None, artifact_id: str) -> str | None:
    path = into.get_content_path(artifact_id) if isinstance(into, LocalAssetStore) else None
    return None if path is None else str(path)


def open_in_viewer(path: Path) -> None:
    """Show a file with the desktop's own program for it.

    Raises:
        StorageError: there is none, or it failed at once.
    """
    program = which(_OPENERS.get(sys.platform, "xdg-open"))
    if program is None:
        raise StorageError(f"{path}: there is no program here that opens files (look at it yourself)")
    quiet = subprocess.DEVNULL
    viewer = subprocess.Popen([program, str(path)], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        status = viewer.wait(_OPENER_WAIT_S)
    except subprocess.TimeoutExpired:
        return  # it is the viewer itself, and stays
    if status:
        raise StorageError(f"{path}: {Path(program).name} could not open it (exit code {status})")


def open_store(place: str) -> AssetStore:
    """Open an asset store: a folder, a URL, or `default` for the one in the home folder.

    Raises:
        StorageError: it cannot be opened.
    """
    if "://" in place:
        return FsspecAssetStore(place)
    try:
        return LocalAssetStore(None if place == "default" else place)
    except OSError as error:
        raise StorageError(f"{place}: cannot be an asset store: {error.strerror}") from error


def read_input(path: str, name: str) -> bytes:
    """Return an input image's bytes.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return read_regular(Path(path).expanduser())
    except OSError as error:
        raise SpecError(f"{name}: {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise SpecError(f"{name}: {path!r}: is no path") from error


def _names(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
