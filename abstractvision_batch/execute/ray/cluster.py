"""What the driver of a run asks of a cluster: nodes, workers, calls and their answers, and the time. Knows no Ray.

The pool (`pool`) is written against `Cluster`; `ray_cluster` has the real one. Another one may keep a time of its
own and answer without generating anything: then the pool's own costs can be measured for clusters nobody has at hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from abstractvision_batch.runs.columns import RowResult

#: A call of a worker that has no answer yet: hashable, and equal to itself alone.
Call = Any


class WorkerLostError(Exception):
    """A worker's process ended or is out of reach."""

    def __init__(self, message: str, *, certain: bool = True) -> None:
        super().__init__(message)
        self.certain = certain
        """False where the cluster does not know yet what happened, as when a node went down a moment ago."""


class CallCancelledError(Exception):
    """A call that was cancelled has ended."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is up."""

    id: str
    resources: Mapping[str, float]
    """All that it has, by Ray's names."""
    free: Mapping[str, float]
    """What nobody uses, as far as the cluster's head knows; a moment old."""
    leaving: bool = False
    """It will be taken away soon."""


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """A requested worker; it starts when resources are free."""

    handle: Any
    placing: Call
    """Answers with the id of its node once it runs."""


class Cluster(Protocol):
    """A cluster that one driver has joined. A worker runs its calls one by one, in the order they were made."""

    grows: bool
    """Whether nodes may join, as far as is known: not one that this process started for itself."""

    def now(self) -> float:
        """Seconds; only differences mean something."""

    def nodes(self) -> Sequence[Node]:
        """The nodes that are up at this moment."""

    def measure_gpus(self, nodes: Sequence[Node]) -> Mapping[str, int]:
        """Memory of the smallest GPU of each node, in bytes, by the node's id; those that cannot say are left out."""

    def start_worker(self, name: str, options: Mapping[str, Any]) -> StartedWorker:
        """Start a worker where there is room for what its `options` ask."""

    def load(self, worker: Any, variant: int) -> Call:
        """Have a worker load the model of a variant, by its number, in place of the one that it has."""

    def run_shard(self, worker: Any, shard: int, tries: int | None) -> Call:
        """Have a worker generate and commit a shard of the variant that it has loaded.

        Answers with a `ShardSummary`, or None where the worker or the variant was stopped.
        """

    def run_rows(self, worker: Any, shard: int, indexes: tuple[int, ...], tries: int | None) -> Call:
        """Have a worker generate rows of a shard; answers with `RowResult`s by plan index, or None."""

    def commit(self, worker: Any, variant: int, shard: int, results: Mapping[int, RowResult]) -> Call:
        """Have any worker commit a shard whose rows were generated in pieces; answers with a `ShardSummary`."""

    def ask_node(self, worker: Any) -> Call:
        """Ask a worker for its node's id: the answer, or its absence, says whether the worker lives."""

    def wait(self, timeout_s: float) -> Sequence[Call]:
        """All calls that have ended since the last `wait`; waits for one, but no longer than `timeout_s`."""

    def answer_of(self, call: Call) -> Any:
        """What a call that has ended answered.

        Raises:
            WorkerLostError: the worker is no more.
            CallCancelledError: it was cancelled.
            AbstractVisionError: what it raised.
        """

    def cancel(self, calls: Iterable[Call]) -> None:
        """Ask calls to end; they find out when they poll."""

    def stop(self, names: Iterable[str]) -> None:
        """Let these workers finish what they run and begin nothing more of what they hold."""

    def stop_variant(self, variant: int) -> None:
        """Let all workers begin nothing more of a variant."""

    def end(self, worker: Any) -> None:
        """End a worker at once, if it lives, or take it back if there was no room for it yet."""

    def release_share(self, name: str) -> None:
        """Let others have what a worker held of limits of requests in flight: it is no more, or does something else."""

    def rows_so_far(self, shards: Collection[int]) -> Mapping[int, tuple[int, int]]:
        """The (succeeded, failed) rows of those of these shards that have any yet."""

    def close(self) -> None:
        """End what belongs to the driver, beside the workers."""
