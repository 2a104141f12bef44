"""Part of a written plan as a plan of its own: chosen batches, whole, in their order.

A batch is the smallest part that gives the run's own pixels again, since kernels choose algorithms by its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from abstractvision_batch.plan.build import describe_file
from abstractvision_batch.runs.columns import fit_columns
from abstractvision_batch.runs.plan_rows import read_shard
from abstractvision_batch.runs.plan_summary import PlanSummary

SELECTED_PLAN = "plan.parquet"


def select_batches(
    open_file: Callable[[str], BinaryIO], plan: PlanSummary, batches: Mapping[int, Collection[int]], folder: Path
) -> PlanSummary:
    """Write the plan of some batches into `folder`, as `plan.parquet`.

    Rows keep their index, batch, slot and everything that determines their pixels; shards are numbered anew.

    Args:
        open_file: Opens a file of the whole plan.
        plan: The whole plan.
        batches: Wanted `batch_id`s by the shard that they are in.
        folder: A local folder.

    Raises:
        StorageError: the whole plan cannot be read.
    """
    requests = 0
    with pq.ParquetWriter(folder / SELECTED_PLAN, plan.schema) as writer:
        for number, shard in enumerate(sorted(batches)):
            rows = fit_columns(read_shard(open_file, plan, shard), plan.schema)
            rows = rows.filter(pc.field("batch_id").isin(list(batches[shard])))
            position = rows.schema.get_field_index("shard")
            shards = pa.array([number] * rows.num_rows, pa.int64())
            rows = rows.set_column(position, rows.schema.field(position), shards)
            writer.write_table(rows, row_group_size=max(1, rows.num_rows))
            requests += rows.num_rows
    return replace(
        plan,
        requests=requests,
        shards=len(batches),
        batches=sum(len(set(chosen)) for chosen in batches.values()),
        files=(describe_file(folder, SELECTED_PLAN, 0, len(batches)),),
    )
