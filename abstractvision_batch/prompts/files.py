"""Find the files of a prompt dataset: paths, fsspec URLs and globs become local files in a fixed order.

Remote files are fetched once, to a scratch folder. Not covered: what the files hold (`readers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.archive import AbstractArchiveFileSystem

from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError, StorageError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.prompt_files import FORMATS, ending_of
from abstractvision_batch.prompts.compression import require_modest
from abstractvision_batch.prompts.source_files import SourceFile
from abstractvision_batch.storage.failures import is_transient
from abstractvision_batch.storage.regular import require_regular
from abstractvision_batch.storage.retries import Retries
from abstractvision_batch.storage.urls import DRIVERS, WEB, is_remote, open_filesystem, require_file
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


def find_prompt_files(job: Job, named: Sequence[tuple[str, str]], scratch: Path) -> list[SourceFile]:
    """Return the files that paths, URLs and globs name, each with its place in the spec; those of a glob are sorted.

    Raises:
        SpecError: there is no such file, it is a folder, a glob matches nothing, or its format cannot be told; of all.
        OptionalDependencyMissingError: the URL needs a driver that is not installed.
        StorageError: a remote store failed.
    """
    files: list[SourceFile] = []
    problems: list[str] = []
    for number, (place, source) in enumerate(named):
        try:
            files += _find(job, place, source, scratch, number)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return files


def _find(job: Job, place: str, source: str, scratch: Path, number: int) -> list[SourceFile]:
    format_ = job.spec.prompts.format
    if not is_remote(source):
        paths = _list_local(job, place, source)
        return [_describe(format_, place, _relative(p, job.base_dir), p, str(p.parent)) for p in paths]
    files = []
    filesystem, names = list_remote(job, place, source)
    for count, name in enumerate(names):
        url = str(filesystem.unstrip_protocol(name))
        shown = bare_url(url)
        path = scratch / f"source-{number:05d}-{count:05d}"
        file = _describe(format_, place, shown, path, _folder_of(url))
        at_the_edge(place, shown, partial(_fetch, filesystem, name, file))
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


def _list_local(job: Job, place: str, source: str) -> list[Path]:
    path = job.base_dir / Path(source).expanduser()
    try:
        if path.is_dir():
            return _list_folder(job, place, source, path)
        if path.exists():
            require_regular(path)
            return [path.absolute()]
        if not is_glob(source):
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


def _list_folder(job: Job, place: str, source: str, path: Path) -> list[Path]:
    """The texts of a folder, each of which is a prompt where the format says so."""
    folder = source.rstrip("/")
    if job.spec.prompts.format != "one_per_file":
        raise SpecError(
            f"{place}: {source} is a folder (name a file, or a glob such as {folder}/*.txt; for a "
            "folder with one prompt in each .txt file, set prompts.format: one_per_file)"
        )
    files = sorted(file.absolute() for file in path.glob("*.txt") if file.is_file())
    if not files:
        raise SpecError(f"{place}: {source}: no .txt file in this folder (or name them by a glob)")
    return files


def list_remote(job: Job, place: str, source: str) -> tuple[Any, list[str]]:
    """Return the file system of a URL, and the names of the files there that it or its pattern names, sorted."""
    options = job.prompt_options()
    filesystem, path = at_the_edge(place, source, lambda: open_filesystem(source, options))
    if not is_glob(source):
        if at_the_edge(place, source, lambda: filesystem.isdir(path)):
            raise SpecError(f"{place}: {source} is a folder (name a file, or a glob such as {source}/*.txt)")
        return filesystem, [path]
    found = at_the_edge(place, source, lambda: filesystem.glob(path, detail=True))
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    if not names:
        raise SpecError(f"{place}: {source}: the pattern matches no file")
    return filesystem, names


def at_the_edge(place: str, shown: str, call: Callable[[], _Result]) -> _Result:
    """Run `call`, again where that may help, and translate what a driver raises: they do not all use OSError."""
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
        message = f"{place}: {shown}: {said} (running again tries again)"
        raise StorageError(message, transient=is_transient(error)) from error


def _describe(format_: str, place: str, shown: str, path: Path, folder: str) -> SourceFile:
    if format_ == "auto":
        ending = ending_of(shown.partition("?")[0] if shown.startswith(WEB) else shown)
        if ending not in FORMATS:
            hint = _HINT_OF_ENDING.get(ending, f"one of {', '.join(FORMATS)}, or set prompts.format")
            raise SpecError(f"{place}: {shown}: its ending does not tell the format ({hint})")
        format_ = FORMATS[ending]
    return SourceFile(shown, path, folder, format_)


def _relative(path: Path, base_dir: Path) -> str:
    """The path as a person would write it beside the spec."""
    base = base_dir.absolute()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def is_glob(source: str) -> bool:
    """Tell whether a path or URL is a pattern."""
    if source.startswith(WEB):
        return "*" in source.partition("?")[0]
    return any(mark in source for mark in "*?[")
