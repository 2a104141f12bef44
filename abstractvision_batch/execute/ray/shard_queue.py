"""What to run next, and what a dead worker means: the driver's whole memory of a Ray run. Knows no Ray.

A shard whose worker died is put back. When its worker dies a second time it is run in pieces, batch by batch; a batch
that kills its worker is run request by request; a request that kills its worker alone, twice, is a failed row. So one
poison request costs a few worker starts and one row, never a shard and never an endless loop.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from abstractvision_batch.errors import WorkerCrashedError
from abstractvision_batch.runs.columns import RowResult
from abstractvision_batch.runs.results import failed_columns

#: Deaths of a shard's workers before it is run in pieces.
WHOLE_SHARD_DEATHS = 2
#: Deaths of the workers of one request, run alone, before it is given up.
LONE_REQUEST_DEATHS = 2


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a worker: a whole shard, or only the rows at `indexes` of it (plan indexes)."""

    shard: int
    indexes: tuple[int, ...] = ()
    variant: int = 0
    """The number of the variant that it is of."""


@dataclass(slots=True)
class _Pieces:
    """A shard that is run in pieces: the results so far and how many rows are still out."""

    shard: Work
    rows: int
    results: dict[int, RowResult] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.results) == self.rows


class _Waiting:
    """Work of one variant that waits."""

    def __init__(self, shards: Sequence[int], variant: int) -> None:
        self._shards = shards
        self._variant = variant
        self._begun = 0
        self.first: deque[Work] = deque()
        self.last: deque[Work] = deque()
        self.ended = False

    def __len__(self) -> int:
        return 0 if self.ended else len(self.first) + len(self._shards) - self._begun + len(self.last)

    def peek(self) -> Work:
        if self.first:
            return self.first[0]
        return Work(self._shards[self._begun], variant=self._variant) if self._untouched else self.last[0]

    def pop(self) -> Work:
        work = self.peek()
        if self.first:
            self.first.popleft()
        elif self._untouched:
            self._begun += 1
        else:
            self.last.popleft()
        return work

    @property
    def _untouched(self) -> bool:
        return self._begun < len(self._shards)


class ShardQueue:
    """Work that waits.

    Args:
        shards: Of each variant, by its number.
        split: Names a shard's batches, as plan indexes; it is asked only for shards in trouble.
    """

    def __init__(self, shards: Sequence[Sequence[int]], *, split: Callable[[int], list[tuple[int, ...]]]) -> None:
        self._waiting = [_Waiting(own, variant) for variant, own in enumerate(shards)]
        self._split = split
        self._deaths: Counter[Work] = Counter()
        self._pieces: dict[int, _Pieces] = {}

    def __len__(self) -> int:
        return sum(self.waiting)

    @property
    def waiting(self) -> list[int]:
        """How much waits of each variant."""
        return [len(waiting) for waiting in self._waiting]

    def left(self, variant: int) -> int:
        """How much waits of one."""
        return len(self._waiting[variant])

    def peek(self, variant: int) -> Work:
        """The next work of a variant, left where it is."""
        return self._waiting[variant].peek()

    def pop(self, variant: int) -> Work:
        """The next work of a variant."""
        return self._waiting[variant].pop()

    def put_back(self, work: Work) -> None:
        """Run again first: the worker went away before it began this work."""
        self._waiting[work.variant].first.appendleft(work)

    def end(self, variant: int) -> None:
        """Let nothing of a variant wait any more, also of what is put back."""
        self._waiting[variant].ended = True

    def worker_died(self, work: Work) -> dict[int, RowResult] | None:
        """Decide what follows from a death during `work`.

        Returns:
            All results of a shard in pieces if this death gave up its last row, for the caller to commit.
        """
        self._deaths[work] += 1
        last = self._waiting[work.variant].last
        if not work.indexes:
            if self._deaths[work] < WHOLE_SHARD_DEATHS:
                last.append(work)
            else:
                batches = self._split(work.shard)
                self._pieces[work.shard] = _Pieces(work, rows=sum(len(batch) for batch in batches))
                last.extend(replace(work, indexes=batch) for batch in batches)
            return None
        if len(work.indexes) > 1:
            last.extend(replace(work, indexes=(index,)) for index in work.indexes)
            return None
        if self._deaths[work] < LONE_REQUEST_DEATHS:
            last.append(work)
            return None
        error = WorkerCrashedError("the worker process ended each time it ran this request, also when it ran it alone")
        row = RowResult(**failed_columns(error), attempts=self._deaths[work], finished_at=datetime.now(UTC))
        return self.piece_done(work, {work.indexes[0]: row})

    def piece_done(self, work: Work, results: dict[int, RowResult]) -> dict[int, RowResult] | None:
        """Keep a piece's results.

        Returns:
            All results of the shard if this was its last piece, for the caller to commit.
        """
        pieces = self._pieces[work.shard]
        pieces.results.update(results)
        return pieces.results if pieces.complete else None

    def take_partial(self) -> list[tuple[Work, dict[int, RowResult]]]:
        """Give away the results of shards in pieces of which some rows have none, once and for all."""
        partial = [(one.shard, one.results) for one in self._pieces.values() if one.results and not one.complete]
        self._pieces.clear()
        return partial
