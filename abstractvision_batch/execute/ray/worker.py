"""What runs on a worker of a cluster: one shard runner at a time; and the driver's board, where workers say how far.

Knows no Ray: `ray_cluster` makes actors of these classes and says how a call finds out that it was cancelled.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.shared_limit import Exchange
from abstractvision_batch.errors import ClusterError
from abstractvision_batch.execute.brake import Brake, Failure
from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.progress import ShardSummary
from abstractvision_batch.execute.shard_runner import ShardRunner
from abstractvision_batch.runs.columns import RowResult

#: Least time between two notes of a worker, in seconds, and most notes a second of all of them: a board is one process.
NOTE_S = 0.25
NOTES_PER_S = 200


class BoardAnswer(NamedTuple):
    """What the board answers a worker before a call."""

    is_stopped: bool
    """Whether the worker may begin nothing more."""
    report_interval_s: float
    """Least time between two notes of the worker."""


class Board:
    """Progress board: per-shard counts from the workers, stop flags from the driver.

    Rows that are generated but not committed, by shard, are what a long shard shows before it ends. A worker that was
    stopped begins nothing more of what it holds: to cancel a call that waits, Ray begins it and ends it a second later.
    """

    def __init__(self) -> None:
        self._brakes: defaultdict[int, Brake] = defaultdict(Brake)
        self._rows: dict[int, tuple[int, int]] = {}
        self._stopped: set[str] = set()
        self._ended: set[int] = set()
        self._workers: set[str] = set()

    def stop(self, workers: list[str]) -> None:
        """Let these workers begin nothing more."""
        self._stopped.update(workers)

    def stop_variant(self, variant: int) -> None:
        """Let all workers begin nothing more of a variant."""
        self._ended.add(variant)

    def ask(self, worker: str, variant: int) -> BoardAnswer:
        """Answer a worker that is about to begin a call of a variant."""
        self._workers.add(worker)
        stopped = worker in self._stopped or variant in self._ended
        return BoardAnswer(stopped, max(NOTE_S, len(self._workers) / NOTES_PER_S))

    def note(self, shard: int, succeeded: int, failed: int) -> None:
        """Take a shard's rows so far."""
        self._rows[shard] = (succeeded, failed)

    def brake(self, variant: int, succeeded: int, failures: Sequence[Failure]) -> tuple[bool, str | None]:
        """Take a worker's first requests of a variant: whether it may go for good, and why it stops."""
        brake = self._brakes[variant]
        said = brake.note(succeeded, failures)
        return brake.released, said

    def read(self, shards: set[int]) -> dict[int, tuple[int, int]]:
        """The (succeeded, failed) rows of these shards; all others are forgotten."""
        self._rows = {shard: rows for shard, rows in self._rows.items() if shard in shards}
        return self._rows


class SharedBrake(Brake):
    """The brake on the driver's board, for one worker; it is asked until it lets the run go."""

    def __init__(self, ask: Callable[[int, Sequence[Failure]], tuple[bool, str | None]], *, on: bool) -> None:
        super().__init__(on=on)
        self._ask = ask

    def note(self, succeeded: int, failures: Sequence[Failure]) -> str | None:
        self.released, said = self._ask(succeeded, failures)
        return said


#: Tells the board what became of a worker's first requests of a variant, as `Board.brake`.
TellBrake = Callable[[int, int, Sequence[Failure]], tuple[bool, str | None]]


class Worker:
    """A shard runner for one model at a time, which is loaded in place of the one before.

    It is made on `load`, so that a missing model is an error with our own class.

    Args:
        board: Handle of the actor of a `Board`.
        cancelled: Whether the call that runs now was cancelled.
        node: Asks for the id of the node that this runs on.
        ask_board: Asks the board for a worker of this name and the variant that it has loaded.
        brake: As the type says.
        name: This worker's name on the board, and at the limit of requests in flight that all workers share.
    """

    def __init__(
        self,
        board: Any,
        cancelled: Callable[[], bool],
        node: Callable[[], str],
        ask_board: Callable[[str, int], BoardAnswer],
        brake: TellBrake,
        name: str = "this",
    ) -> None:
        self._board = board
        self._cancelled = cancelled
        self._node = node
        self._ask_board = ask_board
        self._brake = brake
        self._name = name
        self._variant = -1
        self._context: RunContext | None = None
        self._runner: ShardRunner | None = None

    def node_id(self) -> str:
        """Return where this runs: the first call that a worker answers."""
        return self._node()

    def load(self, variant: int, context: RunContext, exchange: Exchange | None = None) -> None:
        """Load the model of a variant, once the one before it is gone.

        Args:
            variant: Its number on the board.
            context: Of the variant.
            exchange: The way to the limit of requests in flight that all workers share; None if there is none.
        """
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        self._variant, self._context = variant, context
        backend = self._create_backend(context)
        if exchange is not None:
            backend.share_limit(exchange, self._name)
        brake = SharedBrake(partial(self._brake, variant), on=context.has_brake)
        with ExitStack() as unless_loaded:
            runner = unless_loaded.enter_context(closing(ShardRunner(context, backend, brake)))
            runner.load()
            unless_loaded.pop_all()
        self._runner = runner

    def run_shard(self, shard: int, tries: int | None) -> ShardSummary | None:
        """Generate and commit a shard, asking the backend at most so often; None where this worker was stopped."""
        stopped, interval_s = self._ask_board(self._name, self._variant)
        if stopped:
            return None
        note = self._note(shard, interval_s)
        return self._loaded.run_shard(shard, tries=tries, cancelled=self._cancelled, on_rows=note)

    def run_rows(self, shard: int, indexes: tuple[int, ...], tries: int | None) -> dict[int, RowResult] | None:
        """Generate some rows of a shard; the results by plan index, None as `run_shard`.

        Raises:
            DependencyError: no request can succeed.
        """
        if self._ask_board(self._name, self._variant).is_stopped:
            return None
        wanted = set(indexes)
        rows = [row for row in self._loaded.read_rows(shard).table.to_pylist() if row["index"] in wanted]
        results, ended = self._loaded.generate_rows(rows, tries=tries, cancelled=self._cancelled)
        if ended is not None:  # a piece is a batch: little of it can be finished
            raise ended
        return results

    def commit(self, context: RunContext, shard: int, results: dict[int, RowResult]) -> ShardSummary:
        """Commit a shard of any variant that was generated in pieces; no model is needed for it."""
        with ExitStack() as opened:
            if self._runner is not None and self._context is not None and self._context.variant == context.variant:
                runner = self._runner
            else:
                runner = opened.enter_context(closing(ShardRunner(context, self._create_backend(context))))
            return runner.commit(runner.read_rows(shard), results, shard=shard)

    def _create_backend(self, context: RunContext) -> VisionBackend:
        os.environ.update(context.environ)  # before the backend's packages are imported, which read some then
        return context.create_backend()

    @property
    def _loaded(self) -> ShardRunner:
        if self._runner is None:
            raise ClusterError("a worker was asked to generate before it had loaded")
        return self._runner

    def _note(self, shard: int, interval_s: float) -> Callable[[int, int], None]:
        last = 0.0

        def note(succeeded: int, failed: int) -> None:
            nonlocal last
            if time.monotonic() - last > interval_s:
                last = time.monotonic()
                self._board.note.remote(shard, succeeded, failed)

        return note
