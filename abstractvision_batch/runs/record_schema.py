"""What `run.json` and an extension must be before anything uses them: types, ranges, names, counts that fit together.

The file may come from a stranger or from a newer version, so what else is in it is left alone, and every violation of
these rules is one line. The spec and the card are checked by their own models (`record`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from abstractvision_batch.documents.strict_model import IN_RECORD
from abstractvision_batch.job.variants import NAME as VARIANT_NAME
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.runs.columns import reserved_name
from abstractvision_batch.version import __version__

#: A plan of 10 million requests has 39,000 shards and 610 files.
MAX_SHARDS = 10_000_000
MAX_REQUESTS = 10_000_000_000

PLAN_FILE_NAME = re.compile(r"plan\.parquet|plan/[0-9]{5,9}\.parquet")


def find_violation(data: Mapping[str, Any]) -> str | None:
    """Say what of a parsed `run.json` or extension cannot be; None where all is well."""
    try:
        _Generation.model_validate(data, extra="ignore", context=IN_RECORD)
    except ValidationError as exc:
        return f"{describe_violation(exc)}{newer_version(data)}"
    return None


def describe_violation(exc: ValidationError) -> str:
    """Say in a few words which field is wrong, and how."""
    first, *more = exc.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"][:6]))
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said[:200]}" + (f", and {len(more)} more" if more else "")


def newer_version(data: Mapping[str, Any]) -> str:
    """Say that a newer avbatch wrote the file, where it did."""
    environment = data.get("environment")
    wrote = environment.get("avbatch") if isinstance(environment, dict) else None
    if isinstance(wrote, str) and re.fullmatch(r"[\w.+-]{1,40}", wrote) and _number(wrote) > _number(__version__):
        return f"; written by avbatch {wrote}, which is newer than this one, {__version__}"
    return ""


def _number(version: str) -> list[int]:
    return [int(part[:9]) for part in re.findall(r"\d+", version)[:3]]


def _plan_file_name(name: str) -> str:
    if not PLAN_FILE_NAME.fullmatch(name):
        raise ValueError("not the name of a file of a plan (plan.parquet, plan/00000.parquet)")
    return name


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError) as exc:
        raise ValueError("not a timezone") from exc
    return name


_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=MAX_REQUESTS)]
_Text = Annotated[str, Field(max_length=100_000)]
_Time = Annotated[_Text, AfterValidator(_time)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True)


class _PlanFile(_Shape):
    name: Annotated[str, AfterValidator(_plan_file_name)]
    sha256: _Sha256
    size_bytes: Annotated[int, Field(ge=1, le=1 << 50)]
    first_shard: Annotated[int, Field(ge=0, le=MAX_SHARDS)]
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    variant: _Text | None = None


class _Plan(_Shape):
    requests: _Count
    shards: Annotated[int, Field(ge=0, le=MAX_SHARDS)]
    batches: _Count
    prompts: _Count
    matrix_points: _Count
    samples_per_prompt: _Count
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    shard_size: _Count
    prompts_digest: Annotated[str, Field(max_length=200)]
    prompts_files: list[_Text]
    files: list[_PlanFile]
    notes: list[_Text] = []
    prompts_origins: list[dict[str, Any]] = []
    inputs_digest: Annotated[str, Field(max_length=200)] | None = None
    columns: list[Annotated[list[_Text], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("two files have one name")
        for file, later in zip(self.files, self.files[1:], strict=False):
            if later.first_shard != file.first_shard + file.shards:
                raise ValueError(f"the shards of {later.name} do not follow those of {file.name}")
        if sum(file.shards for file in self.files) != self.shards:
            raise ValueError(f"{self.shards:,} shards, and its files have others")
        if self.requests < self.shards:
            raise ValueError(f"{self.shards:,} shards of {self.requests:,} requests")
        names = [name for name, _ in self.columns]
        if len({name.casefold() for name in names}) < len(names) or any(map(reserved_name, names)):
            raise ValueError("a column of the prompts has a name that is taken")
        for name, type_ in self.columns:
            try:
                pa.type_for_alias(type_)
            except ValueError as exc:
                raise ValueError(f"column {name!r} has no type {type_!r}") from exc
        return self


class _Backend(_Shape):
    kind: _Text


class _Prompts(_Shape):
    source: Any


class _Output(_Shape):
    path: _Text


class _Spec(_Shape):
    """What reports and lists read of the spec as it stands."""

    version: int
    name: _Text
    task: _Text
    model: _Text
    backend: _Backend
    prompts: _Prompts
    output: _Output
    matrix: dict[str, list[Any]]
    zip: dict[str, list[Any]]
    draw: dict[str, Any] | None = None


class _Variant(_Shape):
    name: Annotated[str, Field(pattern=rf"^{VARIANT_NAME.pattern}$")]
    model: _Text
    backend: _Text
    settings: _Text
    folder: Annotated[str, Field(pattern=r"^models/[0-9a-f]{12}/$")]
    params: dict[str, Any]


class _Environment(_Shape):
    avbatch: _Text
    python: _Text
    packages: dict[str, _Text]
    backend_packages: dict[str, Annotated[str, Field(pattern=r"^[\w.-]{1,100} [\w.+!-]{1,100}$")]] = {}
    host: _Text
    git_commit: _Text | None
    git_dirty: bool | None


class _Origin(_Shape):
    path: _Text
    run_id: _Text


class _Executor(_Shape):
    executor: _Text
    why: _Text


class _Generation(_Shape):
    run_id: _Text
    conditional_put: bool | None = None
    extends: _Text | None = None
    created_at: _Time
    scheduled_at: _Time | None = None
    timezone: Annotated[_Text, AfterValidator(_timezone)] | None = None
    name: _Text
    fingerprint: _Text
    fingerprint_version: int
    spec_path: _Text
    base_dir: Annotated[_Text, Field(pattern=r"^[^\x00]*$")]
    spec: _Spec
    card: ModelCard
    cards: dict[str, ModelCard] = {}
    variants: list[_Variant] = []
    params: dict[str, Any]
    plan: _Plan
    environment: _Environment
    rerun_of: _Origin | None = None
    executor: _Executor | None = None
