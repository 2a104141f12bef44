"""A row of a run as a Python program without this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from abstractvision_batch.backends.base_backend import ProgramRow
from abstractvision_batch.backends.table import create_backend
from abstractvision_batch.errors import CapabilityNotSupportedError, SpecError, StorageError
from abstractvision_batch.execute.requests import build_request
from abstractvision_batch.runs.columns import VARIANT
from abstractvision_batch.runs.manifest import iter_rows, list_parts, read_shard_rows
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.storage.json_file import parse_json
from abstractvision_batch.storage.urls import split_part
from abstractvision_batch.verbs.reload import load_recorded

Row = Mapping[str, Any]


def write_program(run: Run, request_id: str, *, trust: bool = False) -> str:
    """A program that generates a row's picture as its batch did, and says whether the pixels are the same.

    Raises:
        SpecError: the run has no such row, or it failed.
        CapabilityNotSupportedError: the backend, or how it was configured, cannot be written so.
        DependencyError: the model is not there.
    """
    shard = _find_shard(run, request_id)
    rows = read_shard_rows(run.store, shard, list_parts(run.store)[shard])
    (wanted,) = rows.filter(pc.field("request_id") == request_id).to_pylist()
    if wanted["status"] != "ok":
        raise SpecError(f"{request_id}: it failed ({wanted['error_kind']}): there is nothing to generate again")
    batch = rows.filter(pc.field("batch_id") == wanted["batch_id"]).sort_by("batch_slot").to_pylist()
    for row in batch:
        inputs = (row["input_image"], row["mask_image"])
        if part := next((url for url in inputs if url and split_part(url)[1] is not None), None):
            said = f"its input image is a part of a file, {part}, which the program could not read"
            raise CapabilityNotSupportedError(f"{row['request_id']}: {said} (avbatch rerun reads it)")
    loaded = load_recorded(run.url, run, verb="a program", trust=trust)
    loaded = loaded.variant_named(wanted.get(VARIANT))
    with create_backend(loaded.backend, card=loaded.card, model=loaded.spec.model) as backend:
        return backend.write_program([_program_row(row, wanted) for row in batch], wanted["batch_slot"])


def _find_shard(run: Run, request_id: str) -> int:
    for table in iter_rows(run.store, ["request_id", "shard"]):
        found = table.filter(pc.field("request_id") == request_id)
        if found.num_rows:
            return int(found["shard"][0].as_py())
    raise SpecError(f"{run.url}: no row has the id {request_id} (the manifest's column request_id has them)")


def _metadata(row: Row) -> dict[str, Any]:
    try:
        found = parse_json(row["metadata_json"] or "{}")
    except ValueError as exc:
        raise StorageError(f"{row['request_id']}: its metadata_json is damaged: {exc} (avbatch audit)") from exc
    return found if isinstance(found, dict) else {}


def _program_row(row: Row, wanted: Row) -> ProgramRow:
    """A neighbour that failed has no metadata; what its pass shared is the wanted row's."""
    own, shared = _metadata(row), _metadata(wanted)
    return ProgramRow(
        request_id=row["request_id"],
        request=build_request(row, lambda row, column: b""),  # the program reads the images itself
        image=row["input_image"],
        mask=row["mask_image"],
        width=wanted["media_width"],
        height=wanted["media_height"],
        frames=wanted["media_frames"],
        content_type=wanted["content_type"],
        pixel_sha256=row["pixel_sha256"],
        metadata={**shared, "seed": row["seed"], **own},
        fit=row.get("input_fit") or "stretch",
    )
