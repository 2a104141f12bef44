"""Pins requests to batches and batches to shards: a pure function of the requests' order, bounded in memory.

Requests with equal keys fill a batch together even where others stand between them, so prompts of alternating sizes
still make full batches. A batch that waits too long is closed as it is; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
_Key = TypeVar("_Key", bound=Hashable)

#: Requests that wait in unfilled batches, at most; part of what fixes a plan, so changing it changes plans.
WINDOW = 4096
SHARDS_PER_FILE = 64
_TARGET_SHARDS = 256
_IMAGE_SHARD = (16, 256)
_VIDEO_SHARD = (4, 32)


def pin_batches(
    requests: Iterable[tuple[_Key, Item]], batch_size: int, *, window: int = WINDOW
) -> Iterator[list[Item]]:
    """Group requests, given with their batch keys, into batches of one key each.

    A batch comes out when it is full, when it is the oldest and the window is full, or at the end.
    """
    window = max(window, 2 * batch_size)
    open_batches: dict[_Key, list[Item]] = {}
    waiting = 0
    for key, request in requests:
        batch = open_batches.setdefault(key, [])
        batch.append(request)
        waiting += 1
        if len(batch) == batch_size:
            waiting -= batch_size
            yield open_batches.pop(key)
        elif waiting > window:
            oldest = open_batches.pop(next(iter(open_batches)))
            waiting -= len(oldest)
            yield oldest
    yield from open_batches.values()


def cut_shards(batches: Iterable[Sequence[Item]], shard_size: int) -> Iterator[list[Sequence[Item]]]:
    """Collect whole batches into shards of `shard_size` requests or just over."""
    shard: list[Sequence[Item]] = []
    rows = 0
    for batch in batches:
        shard.append(batch)
        rows += len(batch)
        if rows >= shard_size:
            yield shard
            shard, rows = [], 0
    if shard:
        yield shard


def auto_shard_size(requests: int, *, video: bool) -> int:
    """Requests of a shard: about 256 shards a job, within what is worth losing in a crash and worth a manifest part."""
    low, high = _VIDEO_SHARD if video else _IMAGE_SHARD
    return min(max(requests // _TARGET_SHARDS, low), high)
