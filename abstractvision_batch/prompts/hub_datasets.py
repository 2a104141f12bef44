"""Hugging Face data sets as prompts, through the `datasets` library: of the hub, or of a folder on the disk.

    source: {dataset: hf://datasets/owner/name, config: en, split: train, revision: v1.0, streaming: true}
    source: {dataset: folder-of-save_to_disk}

Labels are their names. Columns that hold pictures, sound or video are left out. The library keeps what it downloads in
its own cache, and takes its token from `HF_TOKEN` unless `prompts.storage_options` has a `token`.

Not covered: single files of the hub (`hf://datasets/owner/name/data.csv`), which are files like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import SourceSpec
from abstractvision_batch.prompts.files import at_the_edge
from abstractvision_batch.prompts.mapping import IMAGE_TASKS
from abstractvision_batch.prompts.source_files import SourceFile, write_rows

T = TypeVar("T")

_ON_HUB = re.compile(r"hf://datasets/([^/@*?\[\]]+(?:/[^/@*?\[\]]+)?)(?:@([^/*?\[\]]+))?/?")
#: How the library names the files of a revision, whatever the revision was called.
_COMMIT = re.compile(r"@([0-9a-f]{40})/")
_READ_ROWS = 1024
_MAX_SAID = 400


def is_on_hub(source: str) -> bool:
    """Tell whether a source names a whole data set of the hub, and no file in it."""
    return _ON_HUB.fullmatch(source) is not None


def find_dataset(job: Job, source: SourceSpec, scratch: Path) -> SourceFile:
    """Put the rows of a data set into a local file.

    Raises:
        SpecError: there is no such data set, configuration, split or revision, or one is to be chosen.
        OptionalDependencyMissingError: `datasets` is not installed.
        StorageError: the hub failed.
    """
    place, name = job.at("prompts.source.dataset"), str(source.dataset)
    try:
        import datasets
    except ImportError as error:
        command = 'pip install "abstractvision_batch[datasets]"'
        raise OptionalDependencyMissingError(f"{place}: {name} needs datasets (run: {command})") from error

    def load(call: Callable[[], T]) -> T:
        return at_the_edge(place, name, lambda: _said(call))

    rows, origin = _open(datasets, job, source, load)
    media = [column for column, kind in (rows.features or {}).items() if _holds_media(datasets, kind)]
    wanted = job.spec.prompts.fields.image
    if job.spec.task in IMAGE_TASKS and wanted in media:
        raise SpecError(
            f"{place}: column {wanted!r} holds pictures inside the data set, which are not read (save each to a file, "
            f"as row[{wanted!r}].save('pictures/00001.png'), and let prompts.source be {{images: pictures}})"
        )
    rows = rows.remove_columns(media) if media else rows
    path = scratch / "dataset.parquet"
    prompts = job.spec.prompts
    limit = prompts.limit if source.streaming and prompts.where is None and prompts.shuffle is None else None

    def write() -> str | None:
        tables = _tables(datasets, rows, limit)
        first = next(tables, None)
        return None if first is None else write_rows(path, first.schema, _of_one_schema(first, tables))

    digest = load(write)
    if digest is None:
        raise SpecError(f"{place}: {name}: the data set has no rows, so there is no prompt")
    notes = (f"{name}: columns left out, since they hold media: {', '.join(media)}",) if media else ()
    return SourceFile(name, path, str(job.base_dir.absolute()), "parquet", digest, origin, notes)


def _open(
    datasets: Any, job: Job, source: SourceSpec, load: Callable[[Callable[[], Any]], Any]
) -> tuple[Any, dict[str, Any]]:
    """The data set of one split, and what is recorded of it."""
    place, name = job.at("prompts.source.dataset"), str(source.dataset)
    on_hub = _ON_HUB.fullmatch(name)
    if on_hub is None:
        if "://" in name:
            raise SpecError(f"{place}: {name}: neither hf://datasets/owner/name nor a folder")
        folder = job.base_dir / Path(name).expanduser()
        if not folder.is_dir():
            hint = f"looked for {folder.absolute()}; a data set of the hub is hf://datasets/owner/name"
            raise SpecError(f"{place}: {name}: no such folder ({hint})")
        if source.revision is not None:
            raise SpecError(f"{job.at('prompts.source.revision')}: a folder has no revisions (leave it out)")
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            return _open_saved(datasets, job, source, folder, load)
    repository = str(folder.absolute()) if on_hub is None else on_hub[1]
    revision = source.revision or (None if on_hub is None else on_hub[2])
    options = {"name": source.config, "revision": revision, "token": job.prompt_options().get("token")}
    builder = load(lambda: datasets.load_dataset_builder(repository, **options))
    split = source.split
    if split is None:
        config = {"revision": revision, "token": options["token"]}
        names = list(builder.info.splits or ()) or load(
            lambda: datasets.get_dataset_split_names(repository, source.config or builder.config.name, **config)
        )
        split = _only(job, names)
    commit = _COMMIT.search(str(builder.config.data_files))
    options["revision"] = commit[1] if commit else revision  # a branch may move before the next request
    rows = load(lambda: datasets.load_dataset(repository, split=split, streaming=source.streaming, **options))
    found = {"config": builder.config.name, "split": str(split), "revision": options["revision"]}
    return rows, {"dataset": name, **found}


def _open_saved(
    datasets: Any, job: Job, source: SourceSpec, folder: Path, load: Callable[[Callable[[], Any]], Any]
) -> tuple[Any, dict[str, Any]]:
    """What `save_to_disk` wrote: one split, or several by their names."""
    if source.config is not None:
        raise SpecError(
            f"{job.at('prompts.source.config')}: what save_to_disk wrote has no configurations (leave it out)"
        )
    saved = load(lambda: datasets.load_from_disk(str(folder)))
    origin = {"dataset": source.dataset, "config": None, "split": source.split, "revision": None}
    if not isinstance(saved, dict):
        if source.split not in (None, str(saved.split)):
            raise SpecError(
                f"{job.at('prompts.source.split')}: {source.split}: the folder has no splits (leave it out)"
            )
        return saved, origin
    split = source.split or _only(job, list(saved))
    if split not in saved:
        raise SpecError(f"{job.at('prompts.source.split')}: no split {split!r} (there are: {', '.join(saved)})")
    return saved[split], {**origin, "split": split}


def _only(job: Job, names: list[str]) -> str:
    if len(names) != 1:
        place = job.at("prompts.source.split")
        raise SpecError(f"{place}: the data set has several: {', '.join(map(str, names[:20]))} (name one)")
    return str(names[0])


def _tables(datasets: Any, rows: Any, limit: int | None) -> Iterator[pa.Table]:
    labels = {name: kind.names for name, kind in (rows.features or {}).items() if isinstance(kind, datasets.ClassLabel)}
    left = limit
    for table in rows.with_format("arrow").iter(batch_size=min(_READ_ROWS, limit or _READ_ROWS)):
        for name, names in labels.items():
            texts = [None if value is None or value < 0 else names[value] for value in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
        yield table.replace_schema_metadata(None).slice(0, left)
        if left is not None and (left := left - table.num_rows) <= 0:  # `take` would look for the row after the last
            return


def _of_one_schema(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    for table in rest:
        yield table.select(first.column_names).cast(first.schema)


def _holds_media(datasets: Any, kind: Any) -> bool:
    inner = getattr(kind, "feature", None)
    return isinstance(kind, datasets.Image | datasets.Audio | datasets.Video) or (
        inner is not None and _holds_media(datasets, inner)
    )


def _said(call: Callable[[], T]) -> T:
    """Run a call of the library: what it says of a wrong name is kept, on one line."""
    from datasets.exceptions import DatasetsError

    try:
        return call()
    except (DatasetsError, FileNotFoundError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise ValueError(said[:_MAX_SAID] or type(error).__name__) from error
