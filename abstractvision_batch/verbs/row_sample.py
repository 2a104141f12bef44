"""Which rows of a run to verify: all, those of given ids, or a sample spread over what the requests differ in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.manifest import iter_rows
from abstractvision_batch.runs.opened import Run

#: Rows that differ in one of these, or in size of batch, take another path through a model: each is a stratum.
STRATUM_COLUMNS = (
    "task", "steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength", "params_json", "batch_size",
)  # fmt: skip
_ROW_COLUMNS = (
    "index", "request_id", "shard", "batch_id", "prompt", "status", "reproducibility", *STRATUM_COLUMNS,
)  # fmt: skip


def choose_rows(source: Run, *, sample: int | None, ids: Collection[str]) -> tuple[pa.Table, int]:
    """The rows to generate again, and how many could be: those that succeeded and had a seed.

    A sample takes from each stratum in turn the rows with the lowest request ids. These are hashes, so that is a random
    sample, and the same one every time.

    Args:
        source: The run.
        sample: How many rows; None: all.
        ids: Request ids, in place of a sample.

    Raises:
        SpecError: an id is not of the run, or its row has nothing to compare with.
    """
    chosen, strata = [], defaultdict[tuple[Any, ...], list[pa.Table]](list)
    verifiable, unknown = 0, set(ids)
    for table in iter_rows(source.store, list(_ROW_COLUMNS)):
        good = table.filter((pc.field("status") == "ok") & (pc.field("reproducibility") != "unseeded"))
        verifiable += good.num_rows
        if ids:
            good = good.filter(pc.field("request_id").isin(list(ids)))
            unknown -= set(good["request_id"].to_pylist())
        if ids or sample is None:
            chosen.append(good)
            continue
        for stratum, rows in _strata(good):
            lowest = pa.concat_tables([*strata[stratum], rows]).sort_by("request_id").slice(0, sample)
            strata[stratum] = [lowest]
    if unknown:
        raise SpecError(
            f"{source.path}: no row to verify has the id {', '.join(sorted(unknown)[:3])} "
            "(the manifest's column request_id has them; the row must have succeeded with a seed)"
        )
    if sample is not None and not ids:
        tables = [strata[key][0] for key in sorted(strata, key=repr)]
        quotas = _share_out(sample, [rows.num_rows for rows in tables])
        chosen = [rows.slice(0, quota) for rows, quota in zip(tables, quotas, strict=True)]
    return pa.concat_tables(chosen) if chosen else pa.table({name: [] for name in _ROW_COLUMNS}), verifiable


def _strata(rows: pa.Table) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    keys = rows.select(list(STRATUM_COLUMNS)).group_by(list(STRATUM_COLUMNS), use_threads=False).aggregate([])
    for key in keys.to_pylist():
        condition = pc.scalar(True)
        for name, value in key.items():
            condition = condition & (pc.field(name).is_null() if value is None else pc.field(name) == value)
        yield tuple(key.values()), rows.filter(condition)


def _share_out(sample: int, sizes: Sequence[int]) -> list[int]:
    """How many of each stratum: one of each in turn, until the sample is full."""
    quotas = [0] * len(sizes)
    while sample > 0 and any(quota < size for quota, size in zip(quotas, sizes, strict=True)):
        for position, size in enumerate(sizes):
            if sample > 0 and quotas[position] < size:
                quotas[position] += 1
                sample -= 1
    return quotas
