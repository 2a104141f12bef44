"""The columns of a plan and of a manifest, with their Arrow types, and the names that a prompt dataset may not use.

A plan's columns are `PLAN_SCHEMA` and then the prompt dataset's own; a manifest's are the plan's and then the results.
No type is ever null, whatever the rows hold, so parts of one plan always have one schema. Where a run was extended, a
later plan may have other columns of the prompt dataset; `fit_columns` makes one table of all.

A plan has a format, which counts up when it gets columns. A plan that an earlier version wrote keeps the columns of
its own.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

#: Hex digits of a request id.
REQUEST_ID_DIGITS = 26

TIMESTAMP = pa.timestamp("us", tz="UTC")

_FIRST_COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("request_id", pa.string()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int64()),
        ("shard", pa.int64()),
        ("batch_id", pa.int64()),
        ("batch_slot", pa.int64()),
        ("batch_size", pa.int64()),
        ("task", pa.string()),
        ("model", pa.string()),
        ("backend", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        ("guidance_scale", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("fps", pa.int64()),
        ("strength", pa.float64()),
        ("input_image", pa.string()),
        ("mask_image", pa.string()),
        ("params_json", pa.string()),
    ]
)

#: Columns that a format of the plan added.
#: `input_fit` is null where a row has no picture; in a plan without the column, backends stretch pictures themselves.
_ADDED_COLUMNS: dict[int, tuple[tuple[str, pa.DataType], ...]] = {
    2: (
        ("input_fit", pa.string()),
        ("input_width", pa.int64()),
        ("input_height", pa.int64()),
        ("input_sha256", pa.string()),
        ("mask_sha256", pa.string()),
    )
}
PLAN_FORMAT = max(_ADDED_COLUMNS)


#: Words of the column `status`.
OK = "ok"
FAILED = "failed"
#: Of a row of a shard that something ended early: the next run does it.
NOT_RUN = "not_run"
#: Of a failed row that an extension replaced by another request; in no part, but said wherever rows are read.
SUPERSEDED = "superseded"


RESULT_SCHEMA = pa.schema(
    [
        ("status", pa.string()),
        ("error_kind", pa.string()),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("attempts", pa.int64()),
        ("attempt", pa.int64()),
        ("file_name", pa.string()),
        # Where in the file its bytes lie, if that is a container (layouts `webdataset` and `parquet`).
        ("member", pa.string()),
        ("offset_bytes", pa.int64()),
        ("container_bytes", pa.int64()),
        ("content_type", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("media_width", pa.int64()),
        ("media_height", pa.int64()),
        ("media_frames", pa.int64()),
        ("duration_s", pa.float64()),
        ("reproducibility", pa.string()),
        ("started_at", TIMESTAMP),
        ("finished_at", TIMESTAMP),
        ("latency_s", pa.float64()),
        ("cost_usd", pa.float64()),
        ("worker", pa.string()),
        ("device", pa.string()),
        ("device_name", pa.string()),
        ("environment_id", pa.string()),
        ("metadata_json", pa.string()),
    ]
)

#: Names and types of a prompt dataset's own columns, as `run.json` has them.
PassedColumns = tuple[tuple[str, str], ...]
_INT, _FLOAT = str(pa.int64()), str(pa.float64())


def fixed_columns(format: int = PLAN_FORMAT) -> pa.Schema:
    """The columns that every plan of a format has."""
    added = [pa.field(*column) for since, columns in _ADDED_COLUMNS.items() if since <= format for column in columns]
    first = _FIRST_COLUMNS
    if format > 1:  # which has whole numbers only
        first = first.set(first.get_field_index("fps"), pa.field("fps", pa.float64()))
    return pa.schema([*first, *added])


PLAN_SCHEMA = fixed_columns()
_RESERVED = {name.casefold(): name for name in (*PLAN_SCHEMA.names, *RESULT_SCHEMA.names)}


def reserved_name(column: str) -> str | None:
    """The plan or manifest column that `column` collides with, ignoring case as SQL readers do; None if it is free."""
    return _RESERVED.get(column.casefold())


def media_column(task: str) -> str:
    """The column that the layout `parquet` adds: its files hold the pictures themselves."""
    if task == "multi_view_image":
        return "images"
    return "video" if task in ("text_to_video", "image_to_video") else "image"


def plan_schema(extra: pa.Schema, format: int = PLAN_FORMAT) -> pa.Schema:
    """The fixed columns of a plan of this format, and then `extra`, the prompt dataset's own."""
    return pa.schema([*fixed_columns(format), *extra])


def manifest_schema(plan: pa.Schema) -> pa.Schema:
    """The columns of `plan` and then those of the results, which the fixed names of a plan can never meet."""
    return pa.schema([*plan, *RESULT_SCHEMA])


def unify_passed(first: PassedColumns, second: PassedColumns) -> PassedColumns:
    """Columns of either, those of `first` in front; one whose types differ has what holds both, text at worst."""
    types = dict(first)
    for name, type_ in second:
        types[name] = _wider(types.get(name, type_), type_)
    return tuple(types.items())


def _wider(one: str, other: str) -> str:
    if one == other:
        return one
    return _FLOAT if {one, other} == {_INT, _FLOAT} else str(pa.string())


def fit_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`: null where it has none, converted where the type is another."""
    if table.schema.equals(schema):
        return table
    there = set(table.schema.names)
    columns = [
        pc.cast(table[field.name], field.type, safe=False)
        if field.name in there
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema.with_metadata(table.schema.metadata))
