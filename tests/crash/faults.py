"""What may be otherwise with a store, installed into a forked driver from outside."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from s3fs import S3FileSystem

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


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault for fault in (no_hard_links, ignored_condition, uploads_in_parts)
}
