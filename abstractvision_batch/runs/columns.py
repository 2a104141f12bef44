"""The columns of a plan and of a manifest, with their Arrow types, and the names that a prompt dataset may not use.

Each column is in one table, with its type and meaning. A plan's columns are `PLAN_SCHEMA` and then the prompt dataset's
own; a manifest's are the plan's and then those of `RowResult`.
No type is ever null, whatever the rows hold, so parts of one plan always have one schema. Where a run was extended, a
later plan may have other columns of the prompt dataset; `fit_columns` makes one table of all.

A plan has a format, which counts up when it gets columns. A plan that an earlier version wrote keeps the columns of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc

#: Words of the column `status`.
OK = "ok"
FAILED = "failed"
#: Of a row of a shard that something ended early: the next run does it.
NOT_RUN = "not_run"
#: Of a failed row that an extension replaced by another request; in no part, but said wherever rows are read.
SUPERSEDED = "superseded"

#: Hex digits of a request id.
REQUEST_ID_DIGITS = 26

TIMESTAMP = pa.timestamp("us", tz="UTC")
_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a plan or of a manifest."""

    name: str
    type: pa.DataType
    meaning: str
    since: int = 1
    """The format of plans that has it first."""
    type_before: pa.DataType | None = None
    """In format 1, where that is another one."""


PLAN_COLUMNS = (
    Column("index", _INT, "Place of the request in the plan, from 0."),
    Column("request_id", _TEXT, "Hash of everything that determines the pixels, and of the sample."),
    Column("prompt_id", _TEXT, "Id of the prompt: the row's own, or a hash of its content."),
    Column("sample_index", _INT, "Which of the samples of this prompt and matrix point it is, from 0."),
    Column("shard", _INT, "Number of the shard that makes it, from 0."),
    Column("batch_id", _INT, "Number of the batch, which is one forward pass."),
    Column("batch_slot", _INT, "Place in the batch, from 0."),
    Column("batch_size", _INT, "Requests of the batch, as planned."),
    Column("task", _TEXT, "`text_to_image` and so on."),
    Column("model", _TEXT, "Id of the model card."),
    Column("backend", _TEXT, "Kind of the backend."),
    Column("prompt", _TEXT, "The prompt as the model gets it, with the template filled in."),
    Column("negative_prompt", _TEXT, "What the picture should not show."),
    Column("seed", _INT, "Seed of this request."),
    Column("steps", _INT, "Denoising steps."),
    Column("guidance_scale", _FLOAT, "Weight of the classifier-free guidance."),
    Column("width", _INT, "Width that is asked for, in pixels."),
    Column("height", _INT, "Height that is asked for, in pixels."),
    Column("num_frames", _INT, "Frames of a video."),
    Column("fps", _FLOAT, "Frames per second of a video.", type_before=_INT),  # of format 1, whole numbers
    Column("strength", _FLOAT, "How much of the input image is replaced, 0 to 1."),
    Column("input_image", _TEXT, "Path or URL of the input image, or several as a JSON list."),
    Column("mask_image", _TEXT, "Path or URL of the mask."),
    Column("params_json", _TEXT, "Parameters without a column of their own, as JSON."),
    # In a plan without this column, backends stretch pictures themselves.
    Column("input_fit", _TEXT, "How the input image comes to width and height; null without an input image.", since=2),
    Column("input_width", _INT, "Width of the input image, in pixels.", since=2),
    Column("input_height", _INT, "Height of the input image, in pixels.", since=2),
    Column("input_sha256", _TEXT, "SHA-256 of the input image's file.", since=2),
    Column("mask_sha256", _TEXT, "SHA-256 of the mask's file.", since=2),
)
#: The column before the prompt dataset's own, where the job has variants: the name of the row's.
VARIANT = "variant"
PLAN_FORMAT = max(column.since for column in PLAN_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """The columns of a manifest's row that say what became of the request, with their meaning; times in UTC."""

    status: Annotated[str, "`ok`, `failed`, or `not_run` where something ended the shard early."]
    error_kind: Annotated[str | None, "Kind of the error of a failed row."] = None
    error_class: Annotated[str | None, "`permanent`, `transient`, `resource` or `policy`."] = None
    error_message: Annotated[str | None, "What happened, for people."] = None
    attempts: Annotated[int, "Times that the backend was asked, in all rounds."] = 1
    retry_round: Annotated[int, "Which retry of its shard the row is from; 0 is the first run."] = 0
    file_name: Annotated[str | None, "File of the picture or video, below the run's folder."] = None
    member: Annotated[str | None, "Name in that file, if it is a container (layouts `webdataset`, `parquet`)."] = None
    offset_bytes: Annotated[int | None, "Where in the container its bytes begin."] = None
    container_bytes: Annotated[int | None, "Size of the container."] = None
    content_type: Annotated[str | None, "MIME type."] = None
    size_bytes: Annotated[int | None, "Size of the picture or video."] = None
    sha256: Annotated[str | None, "SHA-256 of its bytes."] = None
    pixel_sha256: Annotated[str | None, "SHA-256 of its decoded pixels, the same in every lossless format."] = None
    media_width: Annotated[int | None, "Width of what was made, in pixels."] = None
    media_height: Annotated[int | None, "Height of what was made, in pixels."] = None
    media_frames: Annotated[int | None, "Frames of what was made."] = None
    duration_s: Annotated[float | None, "Length of the video, in seconds."] = None
    reproducibility: Annotated[str | None, "What making it again gives: `bit-exact`, `perceptual` and so on."] = None
    started_at: Annotated[datetime | None, "When its batch began."] = None
    finished_at: Annotated[datetime | None, "When its batch was done."] = None
    latency_s: Annotated[float | None, "Seconds that its batch took."] = None
    cost_usd: Annotated[float | None, "What all its attempts cost, in USD, where there is a price."] = None
    worker: Annotated[str | None, "Worker that made it."] = None
    device: Annotated[str | None, "Device that it was made on, e.g. `cuda`."] = None
    device_name: Annotated[str | None, "Name of the GPU or CPU."] = None
    environment_id: Annotated[str | None, "File in `environments/` that describes machine and software."] = None
    metadata_json: Annotated[str | None, "What else the backend says of it, as JSON."] = None

    @property
    def succeeded(self) -> bool:
        """Whether the row has an artifact."""
        return self.status == OK


_ARROW_TYPES = {str: _TEXT, int: _INT, float: _FLOAT, datetime: TIMESTAMP}


def _result_column(name: str) -> Column:
    form, meaning = get_args(get_type_hints(RowResult, include_extras=True)[name])
    return Column(name, _ARROW_TYPES[form if get_origin(form) is None else get_args(form)[0]], meaning)


RESULT_COLUMNS = tuple(_result_column(field.name) for field in fields(RowResult))
RESULT_SCHEMA = pa.schema([(column.name, column.type) for column in RESULT_COLUMNS])

#: Names and types of a prompt dataset's own columns, as `run.json` has them.
PassedColumns = tuple[tuple[str, str], ...]


def fixed_columns(format: int = PLAN_FORMAT) -> pa.Schema:
    """The columns that every plan of a format has."""
    found = [column for column in PLAN_COLUMNS if column.since <= format]
    return pa.schema([(column.name, (format == 1 and column.type_before) or column.type) for column in found])


PLAN_SCHEMA = fixed_columns()
#: What earlier versions call `retry_round`; no column of a prompt dataset may have either name.
EARLIER_ROUND = "attempt"
_RESERVED = {name.casefold(): name for name in (*PLAN_SCHEMA.names, *RESULT_SCHEMA.names, EARLIER_ROUND)}


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
    # Earlier versions let a prompt dataset have a column `retry_round`; in such a run the result's keeps its old name.
    names = [EARLIER_ROUND if name == "retry_round" in plan.names else name for name in RESULT_SCHEMA.names]
    return pa.schema([*plan, *(field.with_name(name) for name, field in zip(names, RESULT_SCHEMA, strict=True))])


def names_in_file(columns: Sequence[str] | None, schema: pa.Schema) -> list[str] | None:
    """Return the names that columns have in a manifest, which an earlier version may have written."""
    if columns is None:
        return None
    old = EARLIER_ROUND in schema.names
    return [EARLIER_ROUND if old and name == "retry_round" else name for name in columns]


def with_current_names(table: pa.Table) -> pa.Table:
    """Return rows of a manifest, which an earlier version may have written, under today's names."""
    names = table.column_names
    if EARLIER_ROUND not in names or "retry_round" in names:
        return table
    return table.rename_columns(["retry_round" if name == EARLIER_ROUND else name for name in names])


def unify_passed(first: PassedColumns, second: PassedColumns) -> PassedColumns:
    """Columns of either, those of `first` in front; one whose types differ has what holds both, text at worst."""
    types = dict(first)
    for name, type_ in second:
        types[name] = _wider(types.get(name, type_), type_)
    return tuple(types.items())


def _wider(one: str, other: str) -> str:
    if one == other:
        return one
    return str(_FLOAT if {one, other} == {str(_INT), str(_FLOAT)} else _TEXT)


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
