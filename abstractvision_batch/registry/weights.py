"""What a backend loads, by content: the files of the model and of what is added to it, each with its SHA-256.

Pixels depend on all of it, and a path or a name of a model says nothing of it. The digest is one hash over every file's
place, size and hash, so it is the same wherever the files lie.

Not covered: which files a backend loads (each backend's own), which run has which (`execute`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import DependencyError
from abstractvision_batch.storage.file_hashes import hash_files


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file; `name` is relative to its part, with `/`."""

    name: str
    size_bytes: int
    sha256: str


#: What the names of adapters begin with that only requests load which name their set.
OF_A_SET = "lora set "


@dataclass(frozen=True, slots=True)
class WeightsPart:
    """Files that come together: the model, a component from elsewhere, an adapter."""

    name: str
    source: str
    """Path or hub id, as it was configured."""
    revision: str | None
    """Commit, where it is a snapshot of the hub."""
    files: tuple[WeightsFile, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that is loaded, by part."""

    parts: tuple[WeightsPart, ...]

    @property
    def files(self) -> dict[str, WeightsFile]:
        """Every file, by `part/name`."""
        return {f"{part.name}/{file.name}": file for part in self.parts for file in part.files}

    @property
    def digest(self) -> str:
        """Hash of every file's place, size and content, 64 hex digits."""
        lines = (f"{name}\0{file.size_bytes}\0{file.sha256}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def differing_files(self, other: Weights) -> list[str]:
        """Files that are not the same in both, or in one alone, as `part/name`; not those of sets that one lacks."""
        mine, others = self.files, other.files
        parts, of_other = ({part.name for part in weights.parts} for weights in (self, other))
        further = {name for name in parts ^ of_other if name.startswith(OF_A_SET)}
        names = {name for name in {*mine, *others} if name.partition("/")[0] not in further}
        return sorted(name for name in names if mine.get(name) != others.get(name))

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping that `from_json` reads back."""
        return {"digest": self.digest, "parts": [_part_to_json(part) for part in self.parts]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Weights:
        """What `to_json` wrote.

        Raises:
            ValueError: it is not that.
        """
        try:
            return cls(tuple(map(_part_from_json, data["parts"])))
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"not a list of weights' files ({exc!r})") from exc


def hash_part(name: str, source: str, folder: Path, files: Sequence[Path]) -> WeightsPart:
    """Hash the files of one part.

    Args:
        name: What the part is: `model`, `lora 1`.
        source: Path or hub id, as it was configured.
        folder: Where names of files start.
        files: Paths inside `folder`.

    Raises:
        DependencyError: a file cannot be read.
    """
    try:
        hashes = hash_files(files)
        found = tuple(
            WeightsFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256)
            for path, sha256 in zip(files, hashes, strict=True)
        )
    except OSError as exc:
        raise DependencyError(f"{name}: {exc.filename}: cannot be read ({exc.strerror or exc})") from exc
    return WeightsPart(name, source, hub_revision(folder), found)


def hub_revision(folder: Path) -> str | None:
    """The commit that a folder of the hub cache is a snapshot of; None elsewhere."""
    for inner in (folder, *folder.parents):
        if inner.parent.name == "snapshots" and inner.parent.parent.name.startswith("models--"):
            return inner.name
    return None


def _part_to_json(part: WeightsPart) -> dict[str, Any]:
    files = [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in part.files]
    return {"name": part.name, "source": part.source, "revision": part.revision, "files": files}


def _part_from_json(part: Mapping[str, Any]) -> WeightsPart:
    files = tuple(
        WeightsFile(_text(file["name"]), _number(file["size_bytes"]), _text(file["sha256"])) for file in part["files"]
    )
    revision = part["revision"]
    return WeightsPart(_text(part["name"]), _text(part["source"]), None if revision is None else _text(revision), files)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value
