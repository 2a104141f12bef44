"""What is known of a plan once it is written: its counts and its files. Small, JSON-safe, part of `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One Parquet file of a plan: row group `g` of it is shard `first_shard + g`."""

    name: str
    sha256: str
    size_bytes: int
    first_shard: int
    shards: int


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Counts and files of a plan. `prompts_digest` is a SHA-256 of the prompt dataset's bytes."""

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

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping that `from_json` reads back."""
        return {**asdict(self), "prompts_files": list(self.prompts_files), "files": [asdict(f) for f in self.files]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanSummary:
        """The summary that `to_json` wrote."""
        files = tuple(PlanFile(**file) for file in data["files"])
        return cls(**{**data, "prompts_files": tuple(data["prompts_files"]), "files": files})

    def file_of(self, shard: int) -> PlanFile:
        """The file whose row groups include `shard`.

        Raises:
            IndexError: the plan has no such shard.
        """
        for file in self.files:
            if file.first_shard <= shard < file.first_shard + file.shards:
                return file
        raise IndexError(f"shard {shard} is not one of the plan's {self.shards}")
