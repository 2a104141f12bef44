"""How far a run is: counts that an executor reports and the command line draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from abstractvision_batch.errors import GenerationCancelledError, RunStoppedError
from abstractvision_batch.execute.executor_choice import ExecutorChoice
from abstractvision_batch.execute.notebook_progress import find_notebook


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one run. `generated` and `failed` are of this invocation; `skipped` was done before it."""

    requests: int
    skipped: int = 0
    generated: int = 0
    failed: int = 0
    shards: int = 0
    shards_done: int = 0
    phase: str = "generate"
    executor: str = ""
    """What runs the shards, and why; empty until some run."""

    @property
    def done(self) -> int:
        """Requests that have a result, from this invocation or an earlier one."""
        return self.skipped + self.generated


#: Notes of rows that a run's summary counts, by their name in `metadata_json`.
NOTED = ("transport",)

ProgressListener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a worker answers: numbers only. `committed` is false where another driver's part was there first."""

    shard: int
    succeeded: int
    failed: int
    committed: bool = True
    tries: int = 0
    """How often the backend was asked for requests of the shard, this time."""
    cost_usd: float | None = None
    """Of those tries; None where there is no price."""
    not_run: int = 0
    """Rows that something kept from being run."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Rows that have a note of a kind in `metadata_json`, for a line of the run's summary."""
    ended_by: GenerationCancelledError | RunStoppedError | None = None
    """What did so; any other error is raised."""


class RunningRows:
    """Rows of shards that run, added up."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, int]] = {}
        self.total = (0, 0)
        """Those that succeeded and those that failed, so far."""

    def replace(self, rows: Mapping[int, tuple[int, int]]) -> None:
        """Take the (succeeded, failed) rows of all shards that run."""
        self._rows = dict(rows)
        self.total = (sum(one for one, _ in rows.values()), sum(other for _, other in rows.values()))

    def drop(self, shard: int) -> None:
        """Forget a shard that is done."""
        succeeded, failed = self._rows.pop(shard, (0, 0))
        self.total = (self.total[0] - succeeded, self.total[1] - failed)


class ProgressTracker:
    """Adds up what an executor reports and tells the listener, by default the notebook that this runs in, if any."""

    def __init__(self, start: Progress, listener: ProgressListener | None) -> None:
        self._now = start
        self._committed = (0, 0)
        self._notes: Counter[str] = Counter()
        listener = listener or find_notebook()
        self._listeners = [] if listener is None else [listener]
        self._tell(start)

    @property
    def failed_rows(self) -> int:
        """Rows that failed in this invocation."""
        return self._now.failed

    @property
    def committed_rows(self) -> int:
        """Rows of shards that this invocation committed."""
        return sum(self._committed)

    def add_listener(self, listener: ProgressListener) -> None:
        """Tell one more from now on."""
        self._listeners.append(listener)

    def on_rows(self, succeeded: int, failed: int) -> None:
        """Take the rows of shards that are not committed yet."""
        generated = self.committed_rows + succeeded + failed
        if (generated, self._committed[1] + failed) != (self._now.generated, self._now.failed):
            self._tell(replace(self._now, generated=generated, failed=self._committed[1] + failed))

    @property
    def notes(self) -> dict[str, int]:
        """Rows of this invocation that have a note of each kind."""
        return dict(self._notes)

    def on_shard(self, shard: ShardSummary) -> None:
        """Take a committed shard."""
        self._notes.update(shard.notes)
        self._committed = (self._committed[0] + shard.succeeded, self._committed[1] + shard.failed)
        self._tell(
            replace(
                self._now,
                generated=self.committed_rows,
                failed=self._committed[1],
                shards_done=self._now.shards_done + (not shard.not_run),
            )
        )

    def take_up(self, rows: int, *, shards: int) -> None:
        """Take that rows which seemed to be done before are to be run, and so their shards are not done."""
        self._tell(replace(self._now, skipped=self._now.skipped - rows, shards_done=self._now.shards_done - shards))

    def on_executor(self, choice: ExecutorChoice) -> None:
        """Say what runs the shards from now on."""
        self._tell(replace(self._now, executor=str(choice)))

    def on_phase(self, phase: str) -> None:
        """Say what happens after generation."""
        self._tell(replace(self._now, phase=phase))

    def _tell(self, now: Progress) -> None:
        self._now = now
        for listener in self._listeners:
            listener(now)
