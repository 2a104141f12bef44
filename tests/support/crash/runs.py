"""A small run with a failed row, where it may live, and what two runs of it have in common."""

from __future__ import annotations

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.support.emulators import BUCKET

#: Columns of when and by whom.
OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker"}
PROMPTS = ["a fox", "a cat", "a dog", "an owl"]
HEALTHY = ("--set", "backend.fail_when=null")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run lives."""

    url: str
    protocol: str

    @property
    def root(self) -> str:
        """Its path, with the bucket of a store."""
        return self.url.removeprefix("s3://")

    @property
    def _files(self) -> Any:
        return fsspec.filesystem(self.protocol, use_listings_cache=False)

    def digests(self) -> dict[str, str]:
        """What tells each file's content, by name."""
        found = self._files.find(self.root, detail=True)
        return {
            path.removeprefix(f"{self.root}/"): entry.get("ETag") or hashlib.md5(Path(path).read_bytes()).hexdigest()
            for path, entry in found.items()
        }

    def read(self, name: str) -> bytes:
        return bytes(self._files.cat_file(f"{self.root}/{name}"))

    def content(self) -> dict[str, bytes]:
        """Every file, by name."""
        found = self._files.cat(self._files.find(self.root))
        return {path.removeprefix(f"{self.root}/"): bytes(data) for path, data in found.items()}

    def fill(self, content: Mapping[str, bytes]) -> None:
        """Write files as some earlier run left them."""
        for name in content if self.protocol == "file" else ():
            Path(self.root, name).parent.mkdir(parents=True, exist_ok=True)
        self._files.pipe({f"{self.root}/{name}": data for name, data in content.items()})

    def delete(self, name: str) -> None:
        self._files.rm_file(f"{self.root}/{name}")

    def remove(self) -> None:
        """Remove what takes room; an object store of the tests ends with them."""
        if self.protocol == "file":
            shutil.rmtree(self.root, ignore_errors=True)

    def rows(self) -> pa.Table:
        """The merged manifest, without what is of the moment."""
        table = pq.read_table(io.BytesIO(self.read("manifest.parquet")), use_threads=False)
        return table.drop_columns(list(OF_THE_MOMENT)).replace_schema_metadata(None)


#: Makes a place that nobody else uses.
NewPlace = Callable[[], Place]


def place_on_disk(folder: Path) -> Place:
    return Place(str(folder / uuid.uuid4().hex), "file")


def place_on_s3() -> Place:
    return Place(f"s3://{BUCKET}/{uuid.uuid4().hex}", "s3")


def write_job(folder: Path, layout: str, *, gallery: bool = False, **sections: Any) -> Path:
    """The spec of 4 requests in 2 shards, of which the second request fails. Its output is set for each run.

    Without the gallery, which is no part of what is committed. One thread writes, so the writes have one order.
    """
    job = {
        "name": "small",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", "fail_when": "a cat"},
        "prompts": {"source": PROMPTS},
        "params": {"width": 64, "height": 64, "seed": 7},
        "output": {"path": "set on the command line", "layout": layout, "gallery": gallery},
        "execution": {"batch_size": 2, "shard_size": 2, "writer_threads": 1},
        **sections,
    }
    spec = folder / f"{layout}-{uuid.uuid4().hex}.yaml"
    spec.write_text(yaml.safe_dump(job))
    return spec


def run_command(spec: Path, place: Place) -> list[str]:
    return ["run", str(spec), "--json", "--quiet", "--set", f"output.path={place.url}"]


def retry_command(place: Place) -> list[str]:
    return ["retry", place.url, "--json", "--quiet", *HEALTHY]


def audit_command(place: Place) -> list[str]:
    return ["audit", place.url, "--json"]


def repair_command(place: Place) -> list[str]:
    return ["audit", place.url, "--json", "--repair", "--grace-s", "0"]
