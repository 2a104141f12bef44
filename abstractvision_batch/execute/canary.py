"""The batch canary: at the start of a run, a few requests of a batch are generated alone as well and compared.

A request must not notice its batch. Kernels choose algorithms by shape, so a level of rounding is usual; another
picture is a fault of batching, known of several engines, that no later check of one run would see. Its worker ends the
run before much is spent.

The first batch of the first shard, of each model's, that holds more than one request is the canary. What was measured
stands in `canary.json`. Not covered: batches of other sizes, views, requests that failed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.backends.base_backend import Cancelled, VisionBackend
from abstractvision_batch.errors import BatchingFaultError, DependencyError
from abstractvision_batch.media.compare import psnr_db
from abstractvision_batch.media.images import Rgb, decode_image, to_rgb_array
from abstractvision_batch.media.video import decode_video
from abstractvision_batch.runs.files import CANARY
from abstractvision_batch.storage.store import Store
from abstractvision_batch.types import GeneratedAsset, VisionRequest


@dataclass(frozen=True, slots=True)
class Specimen:
    """One request of the batch: what it asked for and what came of it in the batch."""

    request_id: str
    slot: int
    request: VisionRequest
    batched: GeneratedAsset


def check_batching(
    store: Store,
    backend: VisionBackend,
    specimens: Sequence[Specimen],
    *,
    batch_size: int,
    cancelled: Cancelled,
    folder: str = "",
) -> None:
    """Generate the first and the last request of a batch alone, compare, and record the differences.

    Their slots are the likeliest to be wrong. Does nothing where the backend runs requests one by one, or where an
    earlier worker of the run has checked.

    Args:
        store: The run's.
        backend: What generated the batch.
        specimens: Requests of the batch that succeeded, in its order.
        batch_size: How many requests shared the forward pass.
        cancelled: Polled while they are generated.
        folder: In the store, of the model's record.

    Raises:
        BatchingFaultError: a request alone gives another picture.
        StorageError: the record cannot be written.
    """
    tolerance_db = backend.batch_tolerance_db()
    if tolerance_db is None or batch_size < 2 or not specimens or store.exists(folder + CANARY):
        return
    measured = []
    for specimen in [*specimens[:1], *specimens[1:][-1:]]:
        (alone,) = backend.generate_batch([specimen.request], cancelled=cancelled)
        if isinstance(alone, DependencyError):
            raise alone
        if isinstance(alone, GeneratedAsset):
            found = _difference(specimen.batched, alone)
            if found["psnr_db"] is not None and found["psnr_db"] < tolerance_db:
                raise BatchingFaultError(_explain(specimen, batch_size, found, tolerance_db))
            measured.append({"request_id": specimen.request_id, "slot": specimen.slot, **found})
    record = {"batch_size": batch_size, "tolerance_db": tolerance_db, "requests": measured}
    store.put_if_absent(folder + CANARY, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


def _difference(batched: GeneratedAsset, alone: GeneratedAsset) -> dict[str, Any]:
    """Of a video the frame that differs most; `psnr_db` is None for equal pixels, 0 for another size or length."""
    frames, others = _frames(batched), _frames(alone)
    if [frame.shape for frame in frames] != [frame.shape for frame in others]:
        return {"psnr_db": 0.0, "max_difference": 255}
    one, other = min(zip(frames, others, strict=True), key=lambda pair: psnr_db(*pair))
    ratio = psnr_db(one, other)
    difference = abs(one.astype(int) - other.astype(int)).max()
    return {"psnr_db": None if ratio == float("inf") else round(ratio, 2), "max_difference": int(difference)}


def _frames(asset: GeneratedAsset) -> Sequence[Rgb]:
    if asset.media_type == "video":
        return list(decode_video(asset.data))
    return [to_rgb_array(decode_image(asset.data))]


def _explain(specimen: Specimen, batch_size: int, found: dict[str, Any], tolerance_db: float) -> str:
    return (
        f"batch canary: request {specimen.request_id} is another picture in its batch of {batch_size} than alone "
        f"(PSNR {found['psnr_db']} dB, of which {tolerance_db:g} are expected; largest difference "
        f"{found['max_difference']} of 255): the model or the installed packages mix the requests of a batch "
        "(run with execution.batch_size=1, or with execution.batch_canary=false if that is as it should be)"
    )
