"""`avbatch plan`: the requests that a job would make, without making them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from abstractvision_batch.job.load import Job, JobLike
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.prompts.frames import as_job
from abstractvision_batch.runs.opened import to_pandas
from abstractvision_batch.runs.plan_rows import read_shard
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import read_record
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.text.redaction import printable
from abstractvision_batch.verbs.extend import plan_extension

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """The requests that a job would make, one a row."""

    name: str
    summary: PlanSummary
    rows: pa.Table

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, one line each."""
        return self.summary.notes

    def table(self) -> pa.Table:
        """Return its rows, in the order in which they are made."""
        return self.rows

    def to_pandas(self) -> pd.DataFrame:
        """Return its rows as a frame of pandas.

        Raises:
            OptionalDependencyMissingError: pandas is not installed.
        """
        return to_pandas(self.rows)

    def __len__(self) -> int:
        return self.summary.requests

    def __repr__(self) -> str:
        plan = self.summary
        return printable(
            f"<Plan {self.name}: {plan.requests:,} requests of {plan.prompts:,} prompts, {plan.matrix_points:,} "
            f"parameter sets, {plan.samples_per_prompt:,} samples each>"
        )


def plan(job: JobLike, *, prompts: Any = None, extend: bool = False) -> Plan:
    """Check a job and every prompt of it, and plan its requests; nothing is loaded, generated or written.

    Args:
        job: What `load_job` returned; or, as that takes it, a YAML file or its content.
        prompts: Prompts in place of the job's own, as `run` takes them.
        extend: Plan only what the job would add to the run in its output.

    Raises:
        SpecError: the spec or a prompt is wrong, all problems together; or extending would do more than add.
        StorageError: reading failed.
    """
    job = as_job(job, prompts)
    with scratch_folder() as folder:
        _, summary = write_plan(job, folder, extend=extend)
        shards = [
            read_shard(lambda name: (folder / name).open("rb"), summary, file.first_shard + group)
            for file in summary.files
            for group in range(file.shards)
        ]
        rows = pa.concat_tables(shards) if shards else summary.schema.empty_table()
        return Plan(job.spec.name, summary, rows)


def write_plan(job: Job, folder: Path, *, extend: bool = False) -> tuple[PlanSummary | None, PlanSummary]:
    """Write the plan of a job into a local folder, or of what it adds to the run in its output.

    Returns:
        The plan of the run there, None where it is not asked for or there is no run; and the plan that was written.
    """
    store = job.open_output() if extend else None
    record = None if store is None else read_record(store)
    if store is None or record is None:
        return None, build_plan(job, folder)
    return record.plan, plan_extension(job, store, record, folder)
