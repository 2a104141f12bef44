"""A run of any size as its workers would have left it, made in minutes: planned for real, its parts made of the plan.

Rows are the plan's with results that take as much room as real ones: each has hashes of its own. Every shard has one
container (layout `webdataset`), a file of the right size with nothing in it, so an audit that trusts sizes passes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from abstractvision_batch.runs.artifact_names import container_name
from abstractvision_batch.runs.columns import RESULT_SCHEMA, manifest_schema
from abstractvision_batch.runs.manifest import part_name
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.results import METADATA_KEY
from abstractvision_batch.storage.parquet import open_parquet

PICTURE_BYTES = 1_500_000
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def write_prompts(path: Path, prompts: int) -> None:
    """A csv file with two columns that pass through."""
    with path.open("w") as stream:
        stream.write("prompt,category,number\n")
        stream.writelines(f"a large red circle number {n} on a white background,shapes,{n}\n" for n in range(prompts))


def describe_job(output: str, **sections: Any) -> dict[str, Any]:
    """The job of `write_prompts`."""
    return {
        "name": "large",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": "prompts.csv"},
        "output": {"path": output, "layout": "webdataset"},
        **sections,
    }


def write_parts(run: Path, plan: PlanSummary, shards: Iterable[int]) -> None:
    """Leave what the workers of these shards, ascending, would have left."""
    (run / "manifest").mkdir(exist_ok=True)
    (run / "artifacts").mkdir(exist_ok=True)
    opened = ""
    for shard in shards:
        file = plan.file_of(shard)
        if file.name != opened:
            opened, source = file.name, open_parquet(run / file.name, name=file.name)
        rows = source.read_row_group(shard - file.first_shard)
        name, part = _build_part(rows, shard)
        note = json.dumps({"shard": shard, "attempt": 0, "version": 1}).encode()
        pq.write_table(
            part.replace_schema_metadata({METADATA_KEY: note}), run / part_name(shard, 0), compression="zstd"
        )
        with (run / name).open("wb") as container:
            container.truncate(rows.num_rows * PICTURE_BYTES + 1024)


def _build_part(rows: pa.Table, shard: int) -> tuple[str, pa.Table]:
    count = rows.num_rows
    hashes = [hashlib.sha256(request_id.encode()).hexdigest() for request_id in rows["request_id"].to_pylist()]
    name = container_name(shard, hashes[0], ".tar")
    started = [STARTED + timedelta(seconds=shard * 60 + 0.731 * number) for number in range(count)]
    own: dict[str, Any] = {
        "member": [f"{request_id}.png" for request_id in rows["request_id"].to_pylist()],
        "offset_bytes": range(512, 512 + count * PICTURE_BYTES, PICTURE_BYTES),
        "sha256": hashes,
        "pixel_sha256": [sha[::-1] for sha in hashes],
        "started_at": started,
        "finished_at": [start + timedelta(seconds=0.7) for start in started],
        "latency_s": [0.7 + number / 1e6 for number in range(count)],
    }
    same = {
        "status": "ok",
        "attempts": 1,
        "retry_round": 0,
        "file_name": name,
        "container_bytes": count * PICTURE_BYTES + 1024,
        "content_type": "image/png",
        "size_bytes": PICTURE_BYTES,
        "media_width": 1024,
        "media_height": 1024,
        "reproducibility": "exact",
        "worker": f"node-{shard % 1000}:{shard % 30_000}",
        "device": "cuda:0",
        "device_name": "NVIDIA H100 80GB HBM3",
    }
    columns = [
        pa.array(own[field.name], field.type)
        if field.name in own
        else pa.repeat(pa.scalar(same.get(field.name), field.type), count)
        for field in RESULT_SCHEMA
    ]
    schema = manifest_schema(rows.schema)
    return name, pa.Table.from_arrays([*(column.combine_chunks() for column in rows.columns), *columns], schema=schema)
