"""Prompts that are given in Python: a pandas or polars frame, an Arrow table, a `datasets.Dataset`.

`with_prompts(spec, prompts) -> GivenSpec` takes what `load_job`, `run` and the other verbs take as a spec, and returns
what they take too: the same spec with other prompts. A table is kept with the run: `prompts/<hash of its rows>.parquet`
is written before `run.json`, and `prompts.source` of the recorded spec is `{frame: <that name>}`. So the run goes on
in another process, with the same table or without it.

A list is prompts as they stand in a spec, a text or path is a `prompts.source`.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.load import GivenSpec, GivenTable, Job, JobLike, load_job
from abstractvision_batch.job.prompt_files import FRAME_NAME, FRAMES
from abstractvision_batch.prompts.source_files import RowsDigest, SourceFile, write_rows
from abstractvision_batch.storage.parquet import open_parquet
from abstractvision_batch.storage.store import Store

_READ_ROWS = 4096


def as_job(job: JobLike, prompts: Any = None) -> Job:
    """Load a job, unless it is loaded, with these `prompts` in place of its own if there are any (`with_prompts`).

    Raises:
        SpecError: it is wrong.
    """
    if prompts is not None:
        return load_job(with_prompts(job.given if isinstance(job, Job) else job, prompts))
    return job if isinstance(job, Job) else load_job(job)


def with_prompts(spec: str | Path | Mapping[str, Any] | GivenSpec, prompts: Any) -> GivenSpec:
    """Return a spec with these prompts in place of its own.

    Args:
        spec: A YAML file, its content, or how either was given; it need not have a `prompts.source`.
        prompts: A pandas or polars frame, an Arrow table, whatever exports an Arrow stream, or a `datasets.Dataset`;
            or a list of prompts or rows, or a path or URL.

    Raises:
        SpecError: it is none of these, or cannot be stored as a table.
    """
    if isinstance(prompts, str | os.PathLike):
        return replace(GivenSpec.of(spec), prompts=os.fspath(prompts))
    if isinstance(prompts, list | tuple):
        return replace(GivenSpec.of(spec), prompts=list(prompts))
    return replace(GivenSpec.of(spec), prompts=freeze_table(prompts))


def freeze_table(prompts: Any) -> GivenTable:
    """Return a frame or table as the file that a run keeps.

    Raises:
        SpecError: it is neither, or cannot be stored.
    """
    what = f"prompts: a {type(prompts).__module__.partition('.')[0]}.{type(prompts).__qualname__}"
    try:
        table = _to_arrow(prompts)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SpecError(f"{what} cannot be stored as a table: {' '.join(str(error).split())[:300]}") from error
    if table is None:
        hint = "a pandas or polars frame, an Arrow table, a datasets.Dataset, a list of prompts, or a path"
        raise SpecError(f"{what} holds no prompts (give {hint})")
    sink = io.BytesIO()
    digest = write_rows(sink, table.schema, [table])
    return GivenTable(frame_name(digest), sink.getvalue())


def frame_name(digest: str) -> str:
    """Return the name that a table has in its run's folder."""
    return f"{FRAMES}/{digest[:16]}.parquet"


def find_frame(job: Job, name: str, scratch: Path) -> SourceFile:
    """Put the table that a job was given, or that its run has, into a local file.

    Raises:
        SpecError: there is none.
        StorageError: it is not the one that was given.
    """
    path = scratch / "frame.parquet"
    given = job.given.prompts
    if isinstance(given, GivenTable) and given.name == name:
        path.write_bytes(given.data)
    else:
        store = job.open_output()
        if not store.exists(name):
            place = job.at("prompts.source")
            raise SpecError(
                f"{place}: {store.url_of(name)}: no such file (give the table again: run(…, prompts=frame))"
            )
        path.write_bytes(store.read(name))
    digest = RowsDigest()
    with open_parquet(path, name=name) as file:
        for batch in file.iter_batches(_READ_ROWS):
            digest.add(batch)
    if frame_name(digest.value) != name:
        raise StorageError(f"{name}: holds other rows than those that its name was made of (give the table again)")
    return SourceFile("prompts", path, str(job.base_dir.absolute()), "parquet", digest.value)


def keep_table(job: Job, store: Store) -> None:
    """Put the table that a job was given into its run, before the record that names it."""
    if isinstance(table := job.given.prompts, GivenTable):
        store.put_if_absent(table.name, table.data)


def list_tables(store: Store) -> list[str]:
    """Return the names of the tables that a run keeps."""
    names = [f"{FRAMES}/{name}" for name in store.list(FRAMES)]
    return [name for name in names if re.fullmatch(FRAME_NAME, name)]


def _to_arrow(prompts: Any) -> pa.Table | None:
    """Return the rows; None where it is no kind of table."""
    module, kind = type(prompts).__module__.partition(".")[0], type(prompts).__name__
    if module == "pandas" and kind == "DataFrame":
        named = any(name is not None for name in prompts.index.names)
        return pa.Table.from_pandas(prompts.reset_index() if named else prompts, preserve_index=False)
    if module == "polars" and kind == "LazyFrame":
        prompts = prompts.collect()
    if module == "datasets" and hasattr(prompts, "with_format"):
        if isinstance(prompts, Mapping):
            raise TypeError(f"it has splits (give one of them: {', '.join(prompts)})")
        tables = list(prompts.with_format("arrow").iter(batch_size=_READ_ROWS))
        return pa.concat_tables(tables) if tables else pa.table({})
    return pa.table(prompts) if hasattr(prompts, "__arrow_c_stream__") else None
