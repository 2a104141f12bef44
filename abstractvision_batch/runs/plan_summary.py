"""What is known of a plan once it is written: its counts and its files. Small, JSON-safe, part of `run.json`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pyarrow as pa

from abstractvision_batch.runs.columns import PassedColumns, plan_schema, unify_passed


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One Parquet file of a plan: row group `g` of it is shard `first_shard + g`."""

    name: str
    sha256: str
    size_bytes: int
    first_shard: int
    shards: int
    variant: str | None = None
    """The name of the variant that its shards are of."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Counts and files of a plan. `prompts_digest` is a SHA-256 of the prompt dataset's bytes.

    Of an extension, the requests, shards, batches and files are those that it adds, numbered on from those before.
    """

    requests: int
    shards: int
    batches: int
    prompts: int
    matrix_points: int
    samples_per_prompt: int
    batch_size: int
    shard_size: int
    prompts_digest: str
    prompts_files: tuple[str, ...]
    files: tuple[PlanFile, ...]
    columns: PassedColumns = ()
    """The prompt dataset's own."""
    format: int = 1
    """Which fixed columns it has; a summary of an earlier version says nothing."""
    superseding: tuple[str, ...] = ()
    """Files whose requests take the place of others (`supersede`)."""
    notes: tuple[str, ...] = ()
    """What a person should know of it, one line each."""
    inputs_digest: str | None = None
    """SHA-256 over those of all input images and masks, in the order of the prompts; None where there are none."""
    signed_images: bool = False
    """Whether URLs of input images gave access and stand in the plan without what did."""

    prompts_origins: tuple[Mapping[str, Any], ...] = ()
    """What sources of the prompts say of themselves: of a run, its id and fingerprint; of a data set, its commit."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping that `from_json` reads back."""
        names: dict[str, Any] = {"prompts_files": list(self.prompts_files), "superseding": list(self.superseding)}
        names |= {"notes": list(self.notes), "prompts_origins": [dict(origin) for origin in self.prompts_origins]}
        data = {**asdict(self), **names, "files": [_file_json(file) for file in self.files]}
        for name in ("signed_images", "superseding", "notes", "prompts_origins"):
            if not data[name]:
                del data[name]  # which earlier versions do not know
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanSummary:
        """The summary that `to_json` wrote; what a later version added to it is left out."""
        own = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        files = tuple(
            PlanFile(**{field.name: file[field.name] for field in fields(PlanFile) if field.name in file})
            for file in data["files"]
        )
        columns = tuple((name, type_) for name, type_ in data["columns"])
        known = {file.name for file in files}
        superseding = tuple(name for name in data.get("superseding", ()) if name in known)
        names = {"prompts_files": tuple(data["prompts_files"]), "superseding": superseding}
        names |= {name: tuple(data.get(name, ())) for name in ("notes", "prompts_origins")}
        return cls(**{**own, **names, "files": files, "columns": columns})

    @property
    def schema(self) -> pa.Schema:
        """Columns of the plan; a file of it lacks those that a later extension brought."""
        passed = pa.schema([(name, pa.type_for_alias(type_)) for name, type_ in self.columns])
        return plan_schema(passed, self.format)

    def extended_by(self, added: PlanSummary) -> PlanSummary:
        """This plan and what an extension adds to it."""
        return replace(
            added,
            requests=self.requests + added.requests,
            shards=self.shards + added.shards,
            batches=self.batches + added.batches,
            files=(*self.files, *added.files),
            superseding=(*self.superseding, *added.superseding),
            columns=unify_passed(self.columns, added.columns),
            signed_images=self.signed_images or added.signed_images,
        )

    def by_variant(self, shards: Iterable[int]) -> dict[str | None, list[int]]:
        """Return shards by the variant that they are of, in the order of the plan."""
        found: dict[str | None, list[int]] = {}
        for shard in sorted(shards):
            found.setdefault(self.file_of(shard).variant, []).append(shard)
        return found

    def first_shard(self, variant: str | None) -> int:
        """The first shard of a variant, or of a run that has none."""
        return next(file.first_shard for file in self.files if file.variant == variant)

    def file_of(self, shard: int) -> PlanFile:
        """The file whose row groups include `shard`.

        Raises:
            IndexError: the plan has no such shard.
        """
        position = bisect_right(self.files, shard, key=lambda file: file.first_shard) - 1
        if position >= 0 and shard < self.files[position].first_shard + self.files[position].shards:
            return self.files[position]
        raise IndexError(f"shard {shard} is not one of the plan's {self.shards}")


def _file_json(file: PlanFile) -> dict[str, Any]:
    data = asdict(file)
    if file.variant is None:
        del data["variant"]  # which earlier versions do not know
    return data
