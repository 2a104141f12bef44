"""Many requests to a store with several in flight, answered in the order of asking.

A request to an object store is tens of milliseconds of waiting, and a run of 10 million requests has 39,000 parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
T = TypeVar("T")

#: Asked for and not yet taken, at most: all of it is in memory.
IN_FLIGHT = 16


def map_in_flight(items: Iterable[Item], action: Callable[[Item], T]) -> Iterator[tuple[Item, T]]:
    """Map `action` over `items` on threads; yield `(item, result)` in order. An exception surfaces at its item.

    Items are taken on the caller's thread, so a generator may make them.
    """
    waiting: deque[tuple[Item, Future[T]]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="in-flight") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(action, item)))
                if len(waiting) == IN_FLIGHT:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
