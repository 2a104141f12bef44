"""Builds a plan in a folder and reads it back: what the tests of the plan share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fingerprint import FINGERPRINT_VERSION
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.runs.plan_rows import iter_rows
from abstractvision_batch.runs.plan_summary import PlanSummary


@dataclass(frozen=True)
class BuiltPlan:
    """A plan as its readers see it."""

    summary: PlanSummary
    folder: Path
    rows: list[dict[str, Any]]
    schema: pa.Schema

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


class Planner:
    """Plans jobs whose prompt files lie in `folder`; keywords are sections of the spec."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._built = 0

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def build(
        self, source: Any, *, prompts: dict[str, Any] | None = None, version: int = FINGERPRINT_VERSION, **sections: Any
    ) -> BuiltPlan:
        spec = {
            "name": "job",
            "model": "avbatch/procedural",
            "backend": {"kind": "procedural"},
            "prompts": {"source": source, **(prompts or {})},
            "output": {"path": "run"},
            **sections,
        }
        self._built += 1
        out = self.folder / f"plan-{self._built}"
        out.mkdir()
        summary = build_plan(load_job(spec, base_dir=self.folder).under(version), out)
        return BuiltPlan(
            summary,
            out,
            list(iter_rows(lambda name: (out / name).open("rb"), summary)),
            pq.read_schema(out / summary.files[0].name),
        )

    def problems(self, source: Any, **keywords: Any) -> tuple[str, ...]:
        """What is wrong with a job, in lines."""
        with pytest.raises(SpecError) as caught:
            self.build(source, **keywords)
        assert "\n".join(caught.value.problems) == str(caught.value)
        return caught.value.problems
