"""Requests of an extension that take the place of requests which did not succeed: reworded prompts, for example.

A request's id is a hash of all that determines its pixels, so a reworded prompt is another request. It takes the place
of the one with the same prompt id, sample and point of the matrix; the extension's plan says which one that is in a
column of its own, `supersedes`. The plan only grows: the old request stays a row of it.

Not covered: which requests may be superseded (`verbs.extend`), and how their rows read then (`runs.manifest`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.plan.build import WRITER_OPTIONS, describe_file
from abstractvision_batch.runs.plan_rows import SUPERSEDES, iter_rows
from abstractvision_batch.runs.plan_summary import PlanFile, PlanSummary
from abstractvision_batch.storage.parquet import open_parquet

Row = Mapping[str, Any]


def supersede(folder: Path, added: PlanSummary, missing: Iterable[Row], axes: Iterable[str]) -> PlanSummary:
    """Pair what an extension adds with the recorded requests that its spec lacks, and write that into its plan.

    The same spec and recorded plan give the same bytes.

    Args:
        folder: Has the extension's plan.
        added: That plan.
        missing: Rows of the recorded plan that the spec lacks, in order.
        axes: Columns in which requests of one prompt and sample differ.
    """
    axes = sorted(axes)

    def key(row: Row) -> tuple[Any, ...]:
        return (row["prompt_id"], row["sample_index"], *(row.get(name) for name in axes))

    waiting: dict[tuple[Any, ...], deque[str]] = defaultdict(deque)
    for row in missing:
        waiting[key(row)].append(row["request_id"])
    pairs: dict[str, str] = {}
    for row in iter_rows(lambda name: (folder / name).open("rb"), replace(added, superseding=())):
        if there := waiting.get(key(row)):
            pairs[row["request_id"]] = there.popleft()
    if not pairs:
        return added
    files = tuple(_rewrite(folder, file, pairs) for file in added.files)
    return replace(
        added,
        files=files,
        columns=(*added.columns, (SUPERSEDES, str(pa.string()))),
        superseding=tuple(file.name for file in files),
    )


def _rewrite(folder: Path, file: PlanFile, pairs: Mapping[str, str]) -> PlanFile:
    """Write a file of the plan again, with the column."""
    path = folder / file.name
    groups = list(_with_column(path, file.shards, pairs))
    with pq.ParquetWriter(path, groups[0].schema, **WRITER_OPTIONS) as writer:
        for group in groups:
            writer.write_table(group)
    return describe_file(folder, file.name, file.first_shard, file.shards, file.variant)


def _with_column(path: Path, shards: int, pairs: Mapping[str, str]) -> Iterator[pa.Table]:
    with open_parquet(path, name=path.name) as plan:
        for number in range(shards):
            group = plan.read_row_group(number)
            ids: Sequence[str] = group["request_id"].to_pylist()
            yield group.append_column(SUPERSEDES, pa.array([pairs.get(one) for one in ids], pa.string()))
