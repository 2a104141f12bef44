"""The context of a run of the embedded model that exists nowhere, for what is decided by its spec."""

from __future__ import annotations

from typing import Any

from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.plan_summary import PlanSummary

PLAN = PlanSummary(
    requests=1,
    shards=1,
    batches=1,
    prompts=1,
    matrix_points=1,
    samples_per_prompt=1,
    batch_size=1,
    shard_size=1,
    prompts_digest="",
    prompts_files=(),
    files=(),
)


def context_of(backend: dict[str, Any] | None = None, **execution: Any) -> RunContext:
    loaded = load_job(
        {
            "name": "a",
            "model": "avbatch/shapes64",
            "backend": {"kind": "diffusers", **(backend or {})},
            "prompts": {"source": ["x"]},
            "output": {"path": "x"},
            "execution": execution,
        }
    )
    return RunContext(url="x", spec=loaded.spec, backend=loaded.backend, card=loaded.card, plan=PLAN)
