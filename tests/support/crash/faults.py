"""What may be otherwise with a store, installed into a forked driver from outside."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable
from typing import Any

from s3fs import S3FileSystem

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.registry.weights import Weights, WeightsFile, WeightsPart

#: Bytes of one part of an upload, where uploads are made to have parts.
PART_BYTES = 2048


def no_hard_links() -> None:
    """A disk such as FAT, where the name is checked and given in two steps."""

    def link(source: Any, target: Any, **how: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    os.link = link  # type: ignore[assignment]


def ignored_condition() -> None:
    """An S3 that does not know `If-None-Match`: every put replaces what is there."""
    call_s3 = S3FileSystem._call_s3

    @functools.wraps(call_s3)
    async def call(filesystem: S3FileSystem, method: str, *more: Any, **arguments: Any) -> Any:
        arguments.pop("IfNoneMatch", None)
        return await call_s3(filesystem, method, *more, **arguments)

    S3FileSystem._call_s3 = call


def uploads_in_parts() -> None:
    """Uploads have parts from 100 MB on; here from 4 KB on, one after the other."""
    one_by_one = {"chunksize": PART_BYTES, "max_concurrency": 1}
    S3FileSystem._pipe_file = functools.partialmethod(S3FileSystem._pipe_file, **one_by_one)
    S3FileSystem._put_file = functools.partialmethod(S3FileSystem._put_file, **one_by_one)


def with_weights() -> None:
    """A procedural backend that has weights and shares forward passes: its runs have `weights.json` and a canary."""
    part = WeightsPart("model", "a folder", None, (WeightsFile("model.safetensors", 1, "0" * 64),))
    ProceduralVisionBackend.weights = lambda backend, task=None: Weights((part,))  # type: ignore[method-assign, assignment]
    ProceduralVisionBackend.batch_tolerance_db = lambda backend: 40.0  # type: ignore[method-assign, assignment]


def late_lists() -> None:
    """An S3 whose listings lack what was put in the last seconds."""
    call_s3 = S3FileSystem._call_s3
    written: dict[str, float] = {}

    @functools.wraps(call_s3)
    async def call(filesystem: S3FileSystem, method: str, *more: Any, **arguments: Any) -> Any:
        named = {key: value for one in (*more, arguments) if isinstance(one, dict) for key, value in one.items()}
        answer = await call_s3(filesystem, method, *more, **arguments)
        if method == "put_object":
            written[str(named.get("Key"))] = time.monotonic()
        if method.startswith("list_objects") and isinstance(answer, dict):
            young = {key for key, when in written.items() if time.monotonic() - when < LATE_S}
            answer["Contents"] = [one for one in answer.get("Contents", ()) if one["Key"] not in young]
        return answer

    S3FileSystem._call_s3 = call


def wrong_reads() -> None:
    """An S3 whose whole reads of parts, plans and manifests hold an error document, with a status of success."""
    cat_file = S3FileSystem._cat_file

    @functools.wraps(cat_file)
    async def cat(filesystem: S3FileSystem, path: str, *more: Any, **arguments: Any) -> Any:
        data = await cat_file(filesystem, path, *more, **arguments)
        if path.endswith(".parquet"):
            return b"<Error><Code>InternalError</Code></Error>".ljust(len(data), b" ")[: len(data)]
        return data

    S3FileSystem._cat_file = cat


#: For this long a listing lacks what was put, in seconds.
LATE_S = 8.0

FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (no_hard_links, ignored_condition, uploads_in_parts, with_weights, late_lists, wrong_reads)
}
