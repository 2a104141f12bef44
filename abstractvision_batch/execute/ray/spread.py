"""Spread the workers of a pool over its variants by the work that is left. Pure: numbers in, a variant's number out.

A worker keeps its model while anything of its variant waits; this is for one that has none, or nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence


def choose_variant(waiting: Sequence[int], workers: Sequence[int], loading: Sequence[int]) -> int | None:
    """Return the variant with the most work left for each worker on it; one that nobody is on comes before any other.

    Args:
        waiting: Shards, or pieces of shards, that wait for a worker, of each variant.
        workers: Workers that have its model, or load it.
        loading: Those of them that load it, and will each take one of those shards.

    Returns:
        None where nothing waits that no one is about to take.
    """
    open_to_more = [variant for variant, left in enumerate(waiting) if left > loading[variant]]

    def left_for_each(variant: int) -> tuple[float, int]:
        left, on_it = waiting[variant], workers[variant]
        return (left / on_it if on_it else float("inf"), left)

    return max(open_to_more, key=left_for_each, default=None)
