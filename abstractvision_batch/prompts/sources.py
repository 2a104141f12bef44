"""Find the files of a prompt dataset: a path, an fsspec URL or a glob becomes local files in a fixed order.

Remote files are fetched once, to a scratch folder. The digest is of the bytes as stored, not of the names, so moving a
dataset does not change it.

Not covered: what the files hold (`readers`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.archive import AbstractArchiveFileSystem

from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError, StorageError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import SourceSpec
from abstractvision_batch.job.prompt_files import FORMATS, ending_of, is_file_name
from abstractvision_batch.prompts.compression import require_modest
from abstractvision_batch.prompts.frames import find_frame
from abstractvision_batch.prompts.source_files import SourceFile
from abstractvision_batch.storage.regular import require_regular
from abstractvision_batch.storage.retries import Retries
from abstractvision_batch.storage.urls import DRIVERS, WEB, open_filesystem, require_file
from abstractvision_batch.text.redaction import bare_url

_Result = TypeVar("_Result")

#: What is a table of a spreadsheet program, or something else that people name here.
_HINT_OF_ENDING = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "a spreadsheet: save it as CSV UTF-8"),
    **dict.fromkeys((".yaml", ".yml", ".toml"), "write its prompts into the spec, or into a .jsonl file"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "an archive: unpack it"),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "save it as Parquet"),
    **dict.fromkeys((".md", ".text", ".prompt", ".caption", ".list"), "set prompts.format: txt for one prompt a line"),
}


def find_files(job: Job, scratch: Path) -> list[SourceFile]:
    """The dataset's files, sorted, on this machine.

    Raises:
        SpecError: there is no such file, it is a folder, a glob matches nothing, or its format cannot be told.
        OptionalDependencyMissingError: the URL needs a driver that is not installed.
        StorageError: a remote store failed.
    """
    source = job.spec.prompts.source
    if isinstance(source, SourceSpec) and source.frame is not None:
        return [find_frame(job, source.frame, scratch)]
    return [file for number, source in enumerate(source_names(job)) for file in _find(job, source, scratch, number)]


def source_names(job: Job) -> tuple[str, ...]:
    """The paths, URLs and globs that `prompts.source` names; none where it has the prompts themselves.

    A list of file names alone was a list of prompts in version 1.

    Raises:
        SpecError: it lists both.
    """
    source = job.spec.prompts.source
    if isinstance(source, str):
        return (source,)
    if isinstance(source, SourceSpec):
        return source.files or ()
    if job.version == 1:
        return ()
    named = [item for item in source if is_file_name(item) or _is_there(job, item)]
    if named and len(named) < len(source):
        other = next(item for item in source if item not in named)
        raise SpecError(
            f"{job.at('prompts.source')}: {named[0]!r} names a file, and {other!r:.60} does not (list files "
            f"alone; as a prompt, write {{prompt: {named[0]}}})"
        )
    return tuple(map(str, named))


def _is_there(job: Job, item: object) -> bool:
    """Whether a text with spaces is the name of a file that there is."""
    if not isinstance(item, str) or len(item) > 255 or ending_of(item) not in FORMATS:
        return False
    try:
        return (job.base_dir / Path(item).expanduser()).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _find(job: Job, source: str, scratch: Path, number: int) -> list[SourceFile]:
    if not is_remote(source):
        paths = _list_local(job, source)
        return [_describe(job, _relative(p, job.base_dir), p, str(p.parent)) for p in paths]
    files = []
    filesystem, names = _list_remote(job, source)
    for place, name in enumerate(names):
        url = str(filesystem.unstrip_protocol(name))
        shown = bare_url(url)
        file = _describe(job, shown, scratch / f"source-{number:05d}-{place:05d}", _folder_of(url))
        _at_the_edge(job, shown, partial(_fetch, filesystem, name, file))
        files.append(file)
    return files


def _fetch(filesystem: Any, name: str, file: SourceFile) -> None:
    require_file(filesystem, name)
    if "compress_size" in (info := filesystem.info(name) if isinstance(filesystem, AbstractArchiveFileSystem) else {}):
        require_modest(file.name, int(info["compress_size"]), int(info["size"]))
    filesystem.get_file(name, str(file.path))


def _folder_of(url: str) -> str:
    """Where relative names in a file start; a query is the file's own."""
    return (url.partition("?")[0] if url.startswith(WEB) else url).rpartition("/")[0]


def is_remote(source: str) -> bool:
    """Whether a source or image is a URL that fsspec must open."""
    return "://" in source or "::" in source


def digest_prompts(job: Job, files: Sequence[SourceFile]) -> str:
    """SHA-256 over the format and the SHA-256 of each of its files, in order; of inline prompts, over their JSON."""
    if not files:
        text = json.dumps(job.spec.prompts.source, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()
    whole = hashlib.sha256()
    for file in files:
        # Where a file's name is its prompt's id, the name counts too.
        name = Path(file.name).name.encode() if file.format == "one_per_file" else b""
        whole.update(file.format.encode() + bytes.fromhex(file.digest or _hash_file(file.path)) + name)
    return whole.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _list_local(job: Job, source: str) -> list[Path]:
    place = job.at("prompts.source")
    path = job.base_dir / Path(source).expanduser()
    try:
        if path.is_dir():
            return _list_folder(job, source, path)
        if path.exists():
            require_regular(path)
            return [path.absolute()]
        if not _is_glob(source):
            inline = "" if ending_of(source) else f"; a prompt stands in a list: [{source}]"
            raise SpecError(f"{place}: {source}: no such file (looked for {path.absolute()}{inline})")
        pattern = Path(source).expanduser()
        root = Path(pattern.anchor) if pattern.is_absolute() else job.base_dir
        matches = sorted(p.absolute() for p in root.glob(str(pattern.relative_to(pattern.anchor))) if p.is_file())
    except (OSError, ValueError, NotImplementedError) as error:  # a name too long, a NUL byte, an odd pattern
        raise SpecError(f"{place}: {source[:200]!r} cannot be looked up: {error}") from error
    if not matches:
        raise SpecError(f"{place}: {source}: the pattern matches no file (in {job.base_dir.absolute()})")
    return matches


def _list_folder(job: Job, source: str, path: Path) -> list[Path]:
    """The texts of a folder, each of which is a prompt where the format says so."""
    folder = source.rstrip("/")
    if job.spec.prompts.format != "one_per_file":
        raise SpecError(
            f"{job.at('prompts.source')}: {source} is a folder (name a file, or a glob such as {folder}/*.txt; for a "
            "folder with one prompt in each .txt file, set prompts.format: one_per_file)"
        )
    files = sorted(file.absolute() for file in path.glob("*.txt") if file.is_file())
    if not files:
        raise SpecError(f"{job.at('prompts.source')}: {source}: no .txt file in this folder (or name them by a glob)")
    return files


def _list_remote(job: Job, source: str) -> tuple[Any, list[str]]:
    options = job.prompt_options()
    filesystem, path = _at_the_edge(job, source, lambda: open_filesystem(source, options))
    if not _is_glob(source):
        if _at_the_edge(job, source, lambda: filesystem.isdir(path)):
            raise SpecError(
                f"{job.at('prompts.source')}: {source} is a folder (name a file, or a glob such as {source}/*.txt)"
            )
        return filesystem, [path]
    found = _at_the_edge(job, source, lambda: filesystem.glob(path, detail=True))
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    if not names:
        raise SpecError(f"{job.at('prompts.source')}: {source}: the pattern matches no file")
    return filesystem, names


def _at_the_edge(job: Job, shown: str, call: Callable[[], _Result]) -> _Result:
    """Run `call`, again where that may help, and translate what a driver raises: they do not all use OSError."""
    place = job.at("prompts.source")
    protocol = shown.partition("://")[0]
    try:
        return Retries().call(call, what=shown)
    except FileNotFoundError as error:
        raise SpecError(f"{place}: {shown}: no such file") from error
    except ImportError as error:
        _, extra = DRIVERS.get(protocol, ("", ""))
        command = f'pip install "abstractvision_batch[{extra}]"' if extra else str(error)
        raise OptionalDependencyMissingError(f"{place}: {shown}: no driver for {protocol}:// ({command})") from error
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(f"{place}: {shown}: {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__  # some drivers list every path they tried
        raise StorageError(f"{place}: {shown}: {said} (running again tries again)") from error


def _describe(job: Job, shown: str, path: Path, folder: str) -> SourceFile:
    format_: str = job.spec.prompts.format
    if format_ == "auto":
        ending = ending_of(shown.partition("?")[0] if shown.startswith(WEB) else shown)
        if ending not in FORMATS:
            hint = _HINT_OF_ENDING.get(ending, f"one of {', '.join(FORMATS)}, or set prompts.format")
            raise SpecError(f"{job.at('prompts.source')}: {shown}: its ending does not tell the format ({hint})")
        format_ = FORMATS[ending]
    return SourceFile(shown, path, folder, format_)


def _relative(path: Path, base_dir: Path) -> str:
    """The path as a person would write it beside the spec."""
    base = base_dir.absolute()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _is_glob(source: str) -> bool:
    if source.startswith(WEB):
        return "*" in source.partition("?")[0]
    return any(mark in source for mark in "*?[")
