"""What a job needs of this machine, as one zip file that a cluster unpacks: every process of the job starts in it.

    spec, lock file, prompt files, input images and masks that their rows name, model cards → zip, overrides, notes

Files keep their places to each other, below the folder that they share, so a relative path in the spec or in a row
means the same there; an absolute one of prompts or cards is said again as a relative one. URLs stay, and so does what
is not packaged: absolute paths of input images and of models, which every node must have then.

Not covered: what runs there (`submit`), and prompts on storage, which the job itself reads and checks.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.table import list_backends
from abstractvision_batch.documents.positions import FieldPath, format_path, plain_value
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import restate, restate_variables, secret_variables
from abstractvision_batch.job.extends import EXTENDS
from abstractvision_batch.job.load import GivenTable, Job, read_values
from abstractvision_batch.job.model import SourceSpec
from abstractvision_batch.prompts.grammar import wildcard_files
from abstractvision_batch.prompts.images import locate_image
from abstractvision_batch.prompts.rows import PromptReader
from abstractvision_batch.prompts.sources import find_files, source_names
from abstractvision_batch.registry.cards import CARD_SUFFIXES
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.urls import is_remote
from abstractvision_batch.text.redaction import gives_access
from abstractvision_batch.verbs.lock import lock_path

#: Of every file in the zip: the same files give the same bytes, which Ray does not take twice.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class JobPackage:
    """A job's files in a zip."""

    path: Path
    spec: str
    """Where the spec is in it."""
    overrides: tuple[str, ...]
    """`--set` of what a path here does not mean there."""
    registry: tuple[str, ...]
    """Where the cards of `--registry` are in it."""
    files: Mapping[str, int]
    """How many there are of each kind."""
    size_bytes: int
    notes: tuple[str, ...]
    """What is not in it, and must be on the cluster."""


def pack_job(
    job: Job,
    target: Path,
    *,
    limit_bytes: int,
) -> JobPackage:
    """Write the zip of a job.

    Args:
        job: The job, of a file.
        target: The zip file to write.
        limit_bytes: How large it may be.

    Raises:
        SpecError: a prompt is wrong, a path can mean nothing on a cluster, or it would be too large.
    """
    problems = [*_unusable_paths(job), *_packaged_secrets(job)]
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    spec = _plain(job.path)
    own_cards = [_plain(job.local_path(path)) for path in job.spec.registry.paths]
    given_cards = [_plain(path) for path in job.given.registry_paths]
    inputs = list_inputs(job)
    kinds = {
        "spec": [*map(_plain, job.files), *_present([lock_path(spec)])],
        "prompt file": inputs.prompts,
        "wildcard file": [_plain(path) for path in wildcard_files(job)],
        "input image": inputs.images,
        "card file": sorted({file for path in [*own_cards, *given_cards] for file in _card_files(path)}),
    }
    root = Path(os.path.commonpath([file.parent for files in kinds.values() for file in files]))
    size_bytes = _write_zip(target, root, kinds, limit_bytes)
    return JobPackage(
        path=target,
        spec=spec.relative_to(root).as_posix(),
        overrides=tuple(_restated(job, spec.parent, own_cards)),
        registry=tuple(path.relative_to(root).as_posix() for path in given_cards),
        files={kind: len(files) for kind, files in kinds.items() if files},
        size_bytes=size_bytes,
        notes=(*inputs.notes, *_backend_notes(job), *_model_notes(job), *_variable_notes(job)),
    )


@dataclass(frozen=True, slots=True)
class Inputs:
    """Local files that the prompts are in, or name."""

    prompts: list[Path]
    images: list[Path]
    notes: tuple[str, ...]


def list_inputs(job: Job) -> Inputs:
    """The local files of a job's prompts; prompts whose files are all here are checked whole.

    Raises:
        SpecError: there is no such file, or rows are wrong.
    """
    sources = source_names(job)
    kept = isinstance(source := job.spec.prompts.source, SourceSpec) and source.frame is not None
    if kept or (sources and all(map(is_remote, sources))):
        return Inputs([], [], ())
    with scratch_folder() as scratch:
        files = find_files(job, scratch)
        reader = PromptReader(job, files)
        packed: set[Path] = set()
        elsewhere: list[str] = []
        remote = False
        for folder, name in reader.image_names():
            if is_remote(name):
                remote = True
                if gives_access(name):
                    place = job.at("prompts.source")
                    raise SpecError(
                        f"{place}: signed URLs of input images would be packaged with the prompts "
                        "(put the prompts on storage, and name them by URL)"
                    )
            elif Path(name).expanduser().is_absolute():
                elsewhere.append(name)
            else:
                packed.add(_plain(locate_image(folder, name)))
        if not remote:  # else the job checks them, with what the cluster may read
            for _ in reader.prompts():
                pass
    images = sorted(path for path in packed if path.is_file())
    local = [_plain(file.path) for file in files if not is_remote(file.name) and file.digest is None]
    return Inputs(local, images, tuple(_absolute_note(elsewhere)))


def _absolute_note(names: list[str]) -> Iterator[str]:
    if names:
        which = f"{names[0]}" if len(set(names)) == 1 else f"{len(set(names)):,} input images, as {names[0]}"
        yield f"{which}: named by absolute path, so not packaged: every node must have it there"


def _unusable_paths(job: Job) -> Iterator[str]:
    """What is here and can be nowhere else."""
    for named in source_names(job):
        if not named.startswith(("file:", "local:", "memory:")):
            continue
        place = job.at("prompts.source")
        yield f"{place}: {named} is on this machine alone (write a path, which is packaged)"
    source = job.spec.prompts.source
    if isinstance(source, SourceSpec):
        for name in ("run", "dataset"):
            if (path := getattr(source, name)) is not None and not is_remote(path):
                place = job.at(("prompts", "source", name))
                yield f"{place}: {path} is on this machine, and is not packaged (name it by URL)"
    if isinstance(job.given.prompts, GivenTable):
        yield f"{job.at('prompts.source')}: a table given in Python is not packaged (write it to a file, and name that)"
    for file, values in _documents(job):
        if Path(str(values.get(EXTENDS) or "")).expanduser().is_absolute():
            yield f"{file}: extends: {values[EXTENDS]} is an absolute path, which is not packaged (name it relatively)"
    for field, path in _model_paths(job):
        if not Path(path).expanduser().is_absolute() and Path(job.local_path(path)).exists():
            yield (
                f"{job.at(field)}: {path} is on this machine, and models are not packaged "
                "(write an absolute path that every node has)"
            )


def _packaged_secrets(job: Job) -> Iterator[str]:
    """What is written in the spec's file or in an override and gives access: both would be in the package."""
    merged = (job.at("prompts.source"), read_values(job.given).data)
    below = [(f"{file}: prompts.source", values) for file, values in _documents(job)[1:]]
    for place, values in (merged, *below):
        section = values.get("prompts")
        source = section.get("source") if isinstance(section, dict) else None
        named = list(source.values()) if isinstance(source, dict) else [source]
        named += source.get("files") or () if isinstance(source, dict) else ()
        if not any(isinstance(text, str) and gives_access(text) for text in named):
            continue
        yield (
            f"{place}: the URL gives access, and would be in what is made of the job "
            "(put it into a variable: source: ${NAME})"
        )


def _documents(job: Job) -> list[tuple[str, dict[str, Any]]]:
    """The spec's file and those that it extends, each with what stands in it."""
    root = job.positions.root
    documents = [] if root is None else [(job.path, root), *job.positions.bases]
    return [(file, plain_value(node)) for file, node in documents]


def _variable_notes(job: Job) -> Iterator[str]:
    for name in secret_variables(read_values(job.given).data):
        yield f"{name}: holds a secret, so it is not packaged: it must be set there"


def _backend_notes(job: Job) -> Iterator[str]:
    for kind in dict.fromkeys(spec.backend.kind for spec in job.specs):
        if not (package := list_backends()[kind].package):
            continue
        yield f"{package}: brings backend {kind}, and is not packaged: the cluster must have it installed"


def _model_notes(job: Job) -> Iterator[str]:
    for field, path in _model_paths(job):
        if Path(path).expanduser().is_absolute():
            yield f"{format_path(field)}: {path} is not packaged: every node must have it there"


def _model_paths(job: Job) -> Iterator[tuple[FieldPath, str]]:
    """Fields of the backend that may name local files, with what they say."""
    for variant in job.variants:
        for part, mark in variant.model_paths():
            if not mark.is_written:
                yield variant.positions.place(part.path), part.value


def _restated(job: Job, folder: Path, cards: list[Path]) -> Iterator[str]:
    """`--set` of fields whose text would mean something else there: absolute paths, and variables that are set here."""
    source = job.spec.prompts.source
    moved: dict[str, Any] = {}

    def relative(name: str) -> str:
        return name if is_remote(name) else os.path.relpath(_plain(job.local_path(name)), folder)

    if isinstance(source, SourceSpec):
        fields = {name: getattr(source, name) for name in ("files", "images", "masks")}
        for name, value in fields.items():
            there = None if value is None else relative(value) if isinstance(value, str) else [*map(relative, value)]
            if there not in (value, [*(value or ())]):
                moved[f"prompts.source.{name}"] = there
    else:
        sources = list(source_names(job))
        if (moves := [relative(name) for name in sources]) != sources:
            moved["prompts.source"] = moves[0] if isinstance(source, str) else moves
    grammar = job.spec.prompts.grammar
    if grammar is not None and grammar.wildcards is not None and Path(grammar.wildcards).expanduser().is_absolute():
        moved["prompts.grammar.wildcards"] = relative(grammar.wildcards)
    paths = [os.path.relpath(path, folder) for path in cards]
    moved |= {"registry.paths": paths} if paths != list(job.spec.registry.paths) else {}
    yield from (restate(field, value) for field, value in moved.items())
    restated = restate_variables(read_values(job.given).data)
    yield from (said for said in restated if said.partition("=")[0] not in moved)


def _write_zip(target: Path, root: Path, kinds: Mapping[str, Iterable[Path]], limit_bytes: int) -> int:
    """Write the files under their places below `root`; how large the zip is."""
    seen: set[Path] = set()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for files in kinds.values():
            for file in files:
                if file in seen:
                    continue
                seen.add(file)
                info = zipfile.ZipInfo(file.relative_to(root).as_posix(), _EPOCH)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                try:
                    with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
                except OSError as exc:
                    raise SpecError(f"{file}: cannot be packaged: {exc.strerror or exc}") from exc
                if target.stat().st_size > limit_bytes:
                    raise SpecError(_too_large(kinds, limit_bytes))
    size_bytes = target.stat().st_size
    if size_bytes > limit_bytes:
        raise SpecError(_too_large(kinds, limit_bytes))
    return size_bytes


def _too_large(kinds: Mapping[str, Iterable[Path]], limit_bytes: int) -> str:
    parts = []
    for kind, files in kinds.items():
        sizes = [file.stat().st_size for file in files]
        if sum(sizes) >= 1_000_000:
            parts.append(f"{len(sizes):,} {kind}{'' if len(sizes) == 1 else 's'} of {sum(sizes) / 1e6:,.0f} MB")
    return (
        f"the job's files would be over {limit_bytes / 1e6:,.0f} MB packed, which is what Ray's Jobs API takes: "
        f"{', '.join(parts)} (put prompts and input images on storage that every node reads, and name them by URL)"
    )


def _card_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [entry for entry in path.iterdir() if entry.suffix in CARD_SUFFIXES and entry.is_file()]


def _present(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def _plain(path: str | Path) -> Path:
    """Absolute and without `..`, as it is written: a link stays one."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))
