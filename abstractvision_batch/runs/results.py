"""One request's outcome, and the manifest part that a shard's outcomes make."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.runs.columns import FAILED, NOT_RUN, RESULT_SCHEMA, RowResult, manifest_schema
from abstractvision_batch.storage.parquet import open_writer

#: Error messages are for people; a stack of native log lines is not.
MAX_ERROR_CHARACTERS = 2000
#: Key of the part's Parquet metadata, a JSON object.
METADATA_KEY = b"abstractvision_batch.manifest"


def add_up(results: Iterable[RowResult]) -> tuple[int, float | None]:
    """Tries of all rows together, and their cost if they have one."""
    rows = list(results)
    costs = [row.cost_usd for row in rows if row.cost_usd is not None]
    return sum(row.attempts for row in rows), math.fsum(costs) if costs else None


def failed_columns(error: GenerationError) -> dict[str, Any]:
    """The columns that say why a request failed."""
    return {
        "status": FAILED,
        "error_kind": error.error_kind,
        "error_class": error.error_class,
        "error_message": " ".join(str(error).split())[:MAX_ERROR_CHARACTERS],
    }


def not_run(cause: Exception | None) -> dict[str, Any]:
    """The columns of a row that has no result, and what ended its shard before it had one."""
    message = None if cause is None else " ".join(str(cause).split())[:MAX_ERROR_CHARACTERS]
    return {"status": NOT_RUN, "error_message": message}


def build_part(rows: pa.Table, results: Mapping[int, RowResult], *, shard: int, retry_round: int) -> bytes:
    """The Parquet bytes of a shard's manifest part.

    Args:
        rows: The shard's rows of the plan.
        results: Result by plan index; one for every row.
        shard: Number of the shard.
        retry_round: Of the part.
    """
    ordered = [results[index] for index in rows["index"].to_pylist()]
    columns = [pa.array([getattr(result, field.name) for result in ordered], field.type) for field in RESULT_SCHEMA]
    schema = manifest_schema(rows.schema)
    table = pa.Table.from_arrays([*(column.combine_chunks() for column in rows.columns), *columns], schema=schema)
    note = json.dumps({"shard": shard, "attempt": retry_round, "version": 1}, sort_keys=True)
    sink = io.BytesIO()
    with open_writer(sink, schema, {**(schema.metadata or {}), METADATA_KEY: note.encode()}) as writer:
        writer.write_table(table)
    return sink.getvalue()


def result_from_json(data: Mapping[str, Any]) -> RowResult:
    """The result that `dataclasses.asdict` turned into a mapping."""
    return RowResult(**{field.name: data[field.name] for field in fields(RowResult)})


def result_to_json(result: RowResult) -> dict[str, Any]:
    """A plain mapping: what crosses a process border."""
    return asdict(result)
