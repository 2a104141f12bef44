"""Where the prompts of a job come from: whatever `prompts.source` names becomes files on this machine.

    files, globs, URLs → as they are (`files`)          a frame, given in Python → kept with the run (`frames`)
    another run        → its rows (`other_run`)         a folder of pictures    → their names (`pictures`)
    a data set of Hugging Face → its rows (`hub_datasets`)

The digest is of the bytes as stored, or of the rows where there is no file, and never of names, so moving a dataset
does not change it. Not covered: what the files hold (`readers`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import SourceSpec
from abstractvision_batch.job.prompt_files import FORMATS, ending_of, is_file_name
from abstractvision_batch.prompts.files import find_prompt_files
from abstractvision_batch.prompts.frames import find_frame
from abstractvision_batch.prompts.grammar import wildcard_files
from abstractvision_batch.prompts.hub_datasets import find_dataset, is_on_hub
from abstractvision_batch.prompts.other_run import find_run_rows
from abstractvision_batch.prompts.pictures import find_pictures
from abstractvision_batch.prompts.source_files import SourceFile
from abstractvision_batch.storage.file_hashes import hash_stream


def find_files(job: Job, scratch: Path) -> list[SourceFile]:
    """The dataset's files, in order, on this machine; none where the spec has the prompts themselves.

    Raises:
        SpecError: there is nothing of that name, or it is not what its kind of source needs.
        OptionalDependencyMissingError: what reads it is not installed.
        StorageError: a remote store failed.
    """
    source = job.spec.prompts.source
    if isinstance(source, str) and is_on_hub(source):
        return [find_dataset(job, SourceSpec(dataset=source), scratch)]
    if isinstance(source, SourceSpec):
        if source.run is not None:
            return [find_run_rows(job, source.run, source.where, scratch)]
        if source.images is not None:
            return [find_pictures(job, source.images, source.masks, scratch)]
        if source.dataset is not None:
            return [find_dataset(job, source, scratch)]
        if source.frame is not None:
            return [find_frame(job, source.frame, scratch)]
    return find_prompt_files(job, list(_named_files(job)), scratch)


def source_names(job: Job) -> tuple[str, ...]:
    """The paths, URLs and globs that `prompts.source` names; none where it has the prompts themselves.

    Raises:
        SpecError: it lists both.
    """
    source = job.spec.prompts.source
    if isinstance(source, SourceSpec) and source.files is None:
        return tuple(name for name in (source.run, source.images, source.masks, source.dataset) if name is not None)
    return tuple(name for _, name in _named_files(job))


def _named_files(job: Job) -> Iterator[tuple[str, str]]:
    """Yield the places in the spec that name files, with the names."""
    source = job.spec.prompts.source
    if isinstance(source, str):
        yield job.at("prompts.source"), source
    elif isinstance(source, SourceSpec):
        for number, name in enumerate(source.files or ()):
            yield job.at(("prompts", "source", "files", number)), name
    elif job.version > 1:  # of version 1, a list of file names alone was a list of prompts
        named = [item for item in source if is_file_name(item) or _is_there(job, item)]
        if named and len(named) < len(source):
            other = next(item for item in source if item not in named)
            raise SpecError(
                f"{job.at('prompts.source')}: {named[0]!r} names a file, and {other!r:.60} does not (write files, with "
                f"URLs and globs, as {{files: […]}}; as a prompt, write {{prompt: {named[0]}}})"
            )
        for number, item in enumerate(named):
            yield job.at(("prompts", "source", number)), str(item)


def _is_there(job: Job, item: object) -> bool:
    """Whether a text with spaces is the name of a file that there is."""
    if not isinstance(item, str) or len(item) > 255 or ending_of(item) not in FORMATS:
        return False
    try:
        return (job.base_dir / Path(item).expanduser()).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def digest_prompts(job: Job, files: Sequence[SourceFile]) -> str:
    """SHA-256 over the format and the SHA-256 of each of its files, in order; of inline prompts, over their JSON.

    Files of wildcards count by their names and content.
    """
    digest = _digest_source(job, files)
    if wildcards := wildcard_files(job):
        folder = job.local_path(str(job.spec.prompts.grammar and job.spec.prompts.grammar.wildcards))
        named = [(path.relative_to(folder).as_posix(), _hash_file(path)) for path in wildcards]
        return hashlib.sha256(json.dumps([digest, named]).encode()).hexdigest()
    return digest


def _digest_source(job: Job, files: Sequence[SourceFile]) -> str:
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
        return hash_stream(stream)
