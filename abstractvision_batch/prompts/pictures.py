"""A folder or glob of pictures as prompts: `source: {images: photos, masks: photos/masks}`.

    id, image   each picture's name below the folder, or below the part of a pattern that is none; sorted
    mask        that of the same name, whatever its ending: `masks/x.png` or `masks/x_mask.png` of `x.jpg`;
                where `masks` is not given, `x_mask.png` next to it

The prompt is `prompts.template`. Names that begin with a dot are left out, and so is what has no ending of a picture.
Not covered: opening them (`images`).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.prompts.files import at_the_edge, is_glob
from abstractvision_batch.prompts.mapping import IMAGE_TASKS
from abstractvision_batch.prompts.problems import Problems
from abstractvision_batch.prompts.source_files import SourceFile, write_rows
from abstractvision_batch.storage.urls import is_remote, open_filesystem
from abstractvision_batch.text.redaction import bare_url

#: Of pictures; what phones write is among them, for a message that says how to convert it.
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm"),
    *(".heic", ".heif"),
)
MASK_SUFFIX = "_mask"
_READ_MASKS = frozenset({"image_to_image"})


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures below a folder: its absolute path or URL, and their names in it, sorted."""

    folder: str
    names: tuple[str, ...]

    def path_of(self, name: str) -> str:
        """The absolute path or URL of one."""
        return f"{self.folder}/{name}"


def find_pictures(job: Job, images: str, masks: str | None, scratch: Path) -> SourceFile:
    """Put the names of pictures and of their masks into a local file.

    Raises:
        SpecError: there is no picture, one has no mask or two, or the task reads none.
        OptionalDependencyMissingError: the URL needs a driver that is not installed.
        StorageError: a remote store failed.
    """
    place, task = job.at("prompts.source.images"), job.spec.task
    if task not in IMAGE_TASKS:
        raise SpecError(f"{place}: {task} starts from no picture (set task, or name prompts)")
    if masks is not None and task not in _READ_MASKS:
        raise SpecError(f"{job.at('prompts.source.masks')}: {task} reads no mask (leave it out)")
    found = _list_pictures(job, place, images)
    if masks is None:
        pairs, notes = _pair_neighbours(found, bare_url(images), reads_masks=task in _READ_MASKS)
    else:
        pairs, notes = _pair(job, found, _list_pictures(job, job.at("prompts.source.masks"), masks))
    rows = [{"id": name, "image": name, "mask": mask} for name, mask in pairs]
    columns = ["id", "image", *(["mask"] if any(mask is not None for _, mask in pairs) else [])]
    schema = pa.schema([(name, pa.string()) for name in columns])
    path = scratch / "images.parquet"
    digest = write_rows(path, schema, [pa.Table.from_pylist(rows, schema)])
    return SourceFile(bare_url(images), path, found.folder, "parquet", digest, notes=tuple(notes))


#: Pictures with the masks that rows name, and notes.
_Paired = tuple[list[tuple[str, str | None]], list[str]]


def _pair_neighbours(found: Pictures, shown: str, *, reads_masks: bool) -> _Paired:
    """Pair pictures with masks that lie next to them; what is called like a mask of no picture is a picture."""
    keys = {_key(name) for name in found.names}
    mask_of = {
        key.removesuffix(MASK_SUFFIX): name
        for name in found.names
        if (key := _key(name)).endswith(MASK_SUFFIX) and key.removesuffix(MASK_SUFFIX) in keys
    }
    masks = set(mask_of.values())
    pairs = [(name, mask_of.get(_key(name)) if reads_masks else None) for name in found.names if name not in masks]
    pictures = f"{len(masks):,} of {len(found.names):,} pictures"
    if masks and reads_masks:
        return pairs, [f"{shown}: {pictures} are masks of their neighbours, by their names (…{MASK_SUFFIX})"]
    return pairs, [f"{shown}: {pictures} are called like masks and left out (…{MASK_SUFFIX})"] if masks else []


def _pair(job: Job, found: Pictures, masks: Pictures) -> _Paired:
    problems = Problems()
    place = job.at("prompts.source.masks")
    are_masks = {masks.path_of(name) for name in masks.names}
    pictures = [name for name in found.names if found.path_of(name) not in are_masks]
    mask_of: dict[str, str] = {}
    for name in masks.names:
        key = _key(name).removesuffix(MASK_SUFFIX)
        if key in mask_of:
            problems.add(f"{place}: {mask_of[key]} and {name} are masks of one picture (remove one)")
        mask_of.setdefault(key, name)
    for name in pictures:
        if _key(name) not in mask_of:
            problems.add(f"{place}: {name} has no mask there (as {_key(name)}.png or {_key(name)}{MASK_SUFFIX}.png)")
    problems.raise_any()
    keys = {_key(name) for name in pictures}
    idle = [name for key, name in mask_of.items() if key not in keys]
    notes = [f"{bare_url(masks.folder)}: masks of no picture: {len(idle):,}, as {idle[0]}"] if idle else []
    return [(name, _relative(masks, mask_of[_key(name)], found.folder)) for name in pictures], notes


def _key(name: str) -> str:
    """What a picture and its mask have in common: the name without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def _relative(masks: Pictures, name: str, folder: str) -> str:
    """A mask as a row names it: relative to the folder of the pictures, so that both may be moved together."""
    path = masks.path_of(name)
    here, there = (
        (protocol, rest.split("/")[0]) for protocol, _, rest in (folder.partition("://"), path.partition("://"))
    )
    if is_remote(folder) != is_remote(path) or (is_remote(path) and here != there):
        return path
    if not is_remote(path):
        return Path(os.path.relpath(path, folder)).as_posix()
    return posixpath.relpath(path.partition("://")[2], folder.partition("://")[2])


def _list_pictures(job: Job, place: str, source: str) -> Pictures:
    found = _list_remote(job, place, source) if is_remote(source) else _list_local(job, place, source)
    names = tuple(sorted(name for name in found.names if _is_picture(name)))
    if not names:
        some = f"{len(found.names):,} other files" if found.names else "nothing"
        endings = ", ".join(ENDINGS[:4])
        raise SpecError(
            f"{place}: {bare_url(source)}: no picture there, {some} (their names end in {endings} and so on)"
        )
    return Pictures(found.folder, names)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not any(part.startswith(".") for part in name.split("/"))


def _list_local(job: Job, place: str, source: str) -> Pictures:
    path = Path(os.path.normpath((job.base_dir / Path(source).expanduser()).absolute()))
    try:
        if path.is_dir():
            return Pictures(str(path), tuple(_names(path, path.rglob("*"))))
        if path.is_file():
            return Pictures(str(path.parent), (path.name,))
        if not is_glob(str(path)):
            raise SpecError(f"{place}: {source}: no such folder (looked for {path})")
        folder = Path(_before_pattern(str(path)))
        pattern = str(path.relative_to(folder))
        return Pictures(str(folder), tuple(_names(folder, folder.glob(pattern))))
    except (OSError, ValueError, NotImplementedError) as error:  # a name too long, a NUL byte, an odd pattern
        raise SpecError(f"{place}: {source[:200]!r} cannot be looked up: {error}") from error


def _names(folder: Path, paths: Iterable[Path]) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in paths if path.is_file())


def _list_remote(job: Job, place: str, source: str) -> Pictures:
    options = job.prompt_options()
    filesystem, path = at_the_edge(place, source, lambda: open_filesystem(source, options))
    if is_glob(source):
        names, folder = at_the_edge(place, source, lambda: filesystem.glob(path)), _before_pattern(path)
    elif at_the_edge(place, source, lambda: filesystem.isdir(path)):
        names, folder = at_the_edge(place, source, lambda: filesystem.find(path)), path.rstrip("/")
    else:
        names, folder = (
            [path] if at_the_edge(place, source, lambda: filesystem.exists(path)) else [],
            path.rpartition("/")[0],
        )
    below = tuple(name[len(folder) + 1 :] for name in names if name.startswith(f"{folder}/"))
    return Pictures(str(filesystem.unstrip_protocol(folder)), below)


def _before_pattern(path: str) -> str:
    """The folder in which a pattern begins."""
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:first]) or "/"
