"""`avbatch status`: how far a run is, from what is on its storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from abstractvision_batch.job.load import Job
from abstractvision_batch.report.outcomes import Outcomes
from abstractvision_batch.report.run_report import read_outcomes
from abstractvision_batch.runs.counts import Counts, count_variants
from abstractvision_batch.runs.manifest import is_merged
from abstractvision_batch.runs.opened import Run, open_run


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantStatus(Counts):
    """How far one variant of a run is."""

    name: str
    model: str
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus(Outcomes):
    """How far a run is, and which."""

    path: str
    name: str
    task: str
    model: str
    backend: str
    created_at: str
    scheduled_at: str | None
    extensions: tuple[Mapping[str, Any], ...]
    variants: tuple[VariantStatus, ...] = ()
    """How far each variant is, where the job has any."""
    merged: bool
    """Whether `manifest.parquet` is there and has every row."""

    also_json: ClassVar[tuple[str, ...]] = (*Outcomes.also_json, "complete")

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return self.shards_done == self.shards


def status(run: str | Path | Job | Run, storage_options: Mapping[str, Any] | None = None) -> RunStatus:
    """Say how far a run is: shards and rows done, failures with an example each, size, cost.

    Raises:
        SpecError: there is no run.
        StorageError: it cannot be read.
    """
    opened = open_run(run, storage_options)
    outcomes, data = read_outcomes(opened.store, opened.plan), opened.record.data
    return RunStatus(
        **outcomes.values(),
        size_bytes=outcomes.size_bytes,
        failures=outcomes.failures,
        path=opened.url,
        name=data["name"],
        task=data["spec"]["task"],
        model=data["spec"]["model"],
        backend=data["spec"]["backend"]["kind"],
        created_at=data["created_at"],
        scheduled_at=data.get("scheduled_at"),
        extensions=tuple(data["extensions"]),
        variants=tuple(_variant_statuses(opened)),
        merged=outcomes.shards_done == outcomes.shards and is_merged(opened.store),
    )


def _variant_statuses(run: Run) -> Iterator[VariantStatus]:
    if not run.record.variants:
        return
    counts = count_variants(run.store, run.plan)
    for variant in run.record.variants:
        own = counts.get(variant["name"], Counts()).values()
        yield VariantStatus(**own, name=variant["name"], model=variant["model"], backend=variant["backend"])
