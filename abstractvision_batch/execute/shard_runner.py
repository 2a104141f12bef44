"""Run one shard: read its rows, generate batch by batch, encode, place the files, write the manifest part last.

Every executor runs shards through this file, so what a laptop tests is what a cluster does. The next batch generates
while the last one is encoded and stored. A request that fails becomes a row; the shard goes on.

What ends a shard early (an empty account, a second Ctrl-C, a fault) ends it with a part, too: what is finished by then
is kept, and the other rows say that they were not run. The next run takes those up as a retry round.

Not covered: which shards to run, and what happens when the process dies (the executors).
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow.compute as pc

from abstractvision_batch.backends.base_backend import NOT_BEGUN, BatchItem, VisionBackend
from abstractvision_batch.errors import (
    ErrorClass,
    GenerationCancelledError,
    GenerationError,
    RunInterruptedError,
    RunStoppedError,
    StorageError,
)
from abstractvision_batch.execute.artifact_writer import ArtifactWriter
from abstractvision_batch.execute.brake import BRAKE_ROWS, Brake, Failure
from abstractvision_batch.execute.canary import Specimen, check_batching
from abstractvision_batch.execute.context import RunContext, worker_name
from abstractvision_batch.execute.limits import RetryBudget, TimeLimits
from abstractvision_batch.execute.progress import NOTED, ShardSummary
from abstractvision_batch.execute.requests import InputImages, build_request
from abstractvision_batch.execute.run_server import agree_on_server
from abstractvision_batch.execute.seed_canary import SeedCanary
from abstractvision_batch.registry.prices import cost_usd
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.report.gallery.inputs import InputPreviews
from abstractvision_batch.report.gallery.sheets import ShardSheets, Span
from abstractvision_batch.runs.columns import NOT_RUN, RowResult
from abstractvision_batch.runs.environment import describe_worker
from abstractvision_batch.runs.environment_files import WorkerEnvironment, put_environment
from abstractvision_batch.runs.layouts.layout import LAYOUTS
from abstractvision_batch.runs.layouts.spool import Pieces
from abstractvision_batch.runs.manifest import part_name
from abstractvision_batch.runs.plan_rows import SUPERSEDES
from abstractvision_batch.runs.results import add_up, build_part, failed_columns, not_run
from abstractvision_batch.runs.shard_rows import ShardRows
from abstractvision_batch.runs.weights import agree_on_weights
from abstractvision_batch.types import GeneratedAsset, VisionRequest

logger = logging.getLogger(__name__)

Row = dict[str, Any]
#: What became of a request: as the backend says, or what the backend raised, which ends the shard.
Item = BatchItem | Exception
#: First wait before a request is tried again, doubled each time, in seconds.
BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request's result, its attempts and timing, and whether its batch ran as planned."""

    item: Item
    attempts: int = 0
    """Times that the backend was asked for it."""
    batch_as_planned: bool = True
    """Whether it came of one forward pass with all that were asked for."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    latency_s: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the request has a result, good or bad, so that it is not asked for again."""
        return not _ends_shard(self.item)


class Generated(NamedTuple):
    """What rows of a shard came to."""

    results: dict[int, RowResult]
    """By plan index, one for every row; `not_run` of those that `ended` left without a result."""
    ended: Exception | None = None
    """What ended the shard early."""


class ShardRunner:
    """A worker: one backend, one store, shards one after the other."""

    def __init__(self, context: RunContext, backend: VisionBackend, brake: Brake | None = None) -> None:
        self.brake = brake or Brake(on=context.has_brake)
        self._context = context
        self._backend = backend
        self._store = context.open_store()
        signed = context.signed_images if context.plan.signed_images else None
        self._load_input = InputImages(context.prompt_options, signed).prepare
        self._layout = LAYOUTS[context.spec.output.layout]
        spec = context.spec
        self._writer = ArtifactWriter(spec.output, run=spec.name, threads=spec.execution.writer_threads)
        self._previews = InputPreviews(self._store) if spec.output.gallery else None
        self._worker = worker_name()
        self._price = context.price
        self._weights: Weights | None = None
        self._environment: WorkerEnvironment | None = None
        self._canary_checked = False
        self._server_agreed = False
        self._seed_canary = SeedCanary(enabled=context.spec.execution.seed_canary)

    def load(self) -> None:
        """Load the model, and record what it is and where; the first batch does both where nobody did.

        Raises:
            DependencyError: the model, a package or the server is missing, or the run has another.
            SpecError: the job asks for what its server ignores.
            StorageError: the record cannot be written.
        """
        self._agree_on_server()
        self._backend.preload(self._context.spec.task)
        self._record_worker()

    def _agree_on_server(self) -> None:
        if not self._server_agreed:
            context = self._context
            agree_on_server(
                self._store, self._backend, spec=context.spec, card=context.card, folder=context.model_folder
            )
            self._server_agreed = True

    def _record_worker(self) -> None:
        """Record the weights and the environment, once the backend has loaded; twice is as good as once."""
        if self._environment is None:
            self._weights = self._backend.weights(self._context.spec.task)
            self._require_weights()
            self._environment = put_environment(
                self._store, describe_worker(self._backend.environment(), self._weights)
            )

    def _require_weights(self) -> None:
        if self._weights is not None:
            agree_on_weights(self._store, self._weights, who=self._worker, folder=self._context.model_folder)

    def run_shard(
        self,
        shard: int,
        *,
        tries: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        on_rows: Callable[[int, int], None] = lambda succeeded, failed: None,
    ) -> ShardSummary:
        """Generate and commit a shard: all of it, or of one that left a part what a retry asks for.

        Where something ends it early, the rows that are finished are committed, if there are any.

        Args:
            shard: Number of the shard.
            tries: How often the backend may be asked for a request, of all of them together; at least once for each.
            cancelled: Polled between denoising steps; true ends the shard.
            on_rows: Called after each batch with the shard's (succeeded, failed) rows so far.

        Returns:
            What was committed; `ended_by` a cancel, or a run that stops by itself, if one of them ended it.

        Raises:
            GenerationCancelledError: `cancelled` answered true, and no row is finished: nothing was committed.
            DependencyError: no request can succeed; what was finished is committed.
            StorageError: reading the plan or writing failed; nothing was committed.
        """
        rows = self.read_rows(shard)
        sheets = self._open_sheets(shard, rows)
        with self._layout.keep(self._store) as pieces:
            results, ended = self.generate_rows(
                rows.chosen.to_pylist(), pieces, sheets, tries=tries, cancelled=cancelled, on_rows=on_rows
            )
            if sheets is not None:
                sheets.close()
            results = _with_left(rows, results)
            if ended is None:
                return self._commit(rows, results, pieces, shard=shard)
            finished = sum(result.status != NOT_RUN for result in results.values())
            if not finished:
                raise ended
            summary = self._commit(rows, results, pieces, shard=shard)
        logger.warning(
            "shard %d ended early: %d of its %d rows are kept, and running again does the others",
            *(shard, finished, len(results)),
        )
        if isinstance(ended, GenerationCancelledError | RunStoppedError):
            return replace(summary, ended_by=ended)
        raise ended

    def read_rows(self, shard: int) -> ShardRows:
        """The shard's rows that are to be run.

        Raises:
            StorageError: the plan or a part cannot be read, or the plan is of another task.
        """
        rows = self._context.read_rows(self._store, shard)
        task = self._context.spec.task
        if any(found != task for found in rows.table["task"].unique().to_pylist()):
            raise StorageError(f"{self._store.url}: shard {shard} of the plan has requests of another task than {task}")
        return rows

    def generate_rows(
        self,
        rows: Sequence[Row],
        pieces: Pieces | None = None,
        sheets: ShardSheets | None = None,
        *,
        tries: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        on_rows: Callable[[int, int], None] = lambda succeeded, failed: None,
    ) -> Generated:
        """Generate and encode rows of one shard, in their pinned batches; the arguments are those of `run_shard`.

        The files go into `pieces`, by default into the store, where another worker finds them; thumbnails into
        `sheets`, where the caller made the whole shard's.
        """
        limits = TimeLimits(self._context.spec.execution, cancelled, guarded=self._context.choice.executor == "ray")
        budget = RetryBudget(None if tries is None else tries - len(rows))
        results: dict[int, RowResult] = {}
        generated = failed = 0
        ended: Exception | None = None
        pending: list[tuple[Row, Outcome, Future[dict[str, Any]]]] = []
        for batch, size in self._batches(rows):
            outcomes, ended = self._generate_batch(batch, limits, budget, size=size)
            self._check_batching(batch, outcomes, limits)
            for row, outcome in zip(batch, outcomes, strict=True):
                self._seed_canary.look(row, outcome.item)
            # The writers had a whole batch's time for these; waiting here bounds what is held in memory.
            self._collect(pending, results)
            pending = []
            for row, outcome in zip(batch, outcomes, strict=True):
                if sheets is not None and isinstance(outcome.item, Exception):
                    sheets.add(row["index"], None)
                if isinstance(outcome.item, GenerationError) and outcome.finished:
                    results[row["index"]] = self._result(outcome, failed_columns(outcome.item))
                elif isinstance(outcome.item, Exception):
                    results[row["index"]] = self._result(outcome, not_run(ended))
                else:
                    assets = [outcome.item] if isinstance(outcome.item, GeneratedAsset) else outcome.item
                    pending.append((row, outcome, self._writer.submit(row, assets, pieces or self._store, sheets)))
            if ended is None and not self.brake.released:
                self._collect(pending, results)
                pending = []
                ended = self._try_brake(batch, results)
            finished = [outcome.item for outcome in outcomes if outcome.finished]
            generated += len(finished)
            failed += sum(isinstance(item, GenerationError) for item in finished)
            on_rows(generated - failed, failed)
            if ended is not None:
                break
        self._collect(pending, results)
        if ended is not None:
            left = RowResult(**not_run(ended), attempts=0)
            results |= {row["index"]: left for row in rows if row["index"] not in results}
        return Generated(results, ended)

    def _open_sheets(self, shard: int, rows: ShardRows) -> ShardSheets | None:
        if not self._context.spec.output.gallery:
            return None
        span = Span(rows.first, rows.count)
        return ShardSheets(self._store, shard, rows.retry_round, span, rows.chosen["index"].to_pylist())

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], int]]:
        """Pinned batches with their planned sizes; of requests that share no forward pass, a few to begin with."""
        for _, group in groupby(rows, key=lambda row: row["batch_id"]):
            batch = list(group)
            planned = batch[0]["batch_size"]
            whole = len(batch) == planned
            few = not self.brake.released and len(batch) > BRAKE_ROWS and self._backend.batch_tolerance_db() is None
            for part in [batch[:BRAKE_ROWS], batch[BRAKE_ROWS:]] if few else [batch]:
                yield part, len(part) if whole else planned

    def _try_brake(self, batch: Sequence[Row], results: Mapping[int, RowResult]) -> RunStoppedError | None:
        """Tell the brake what became of a batch; the error where the run is to stop."""
        of_batch = [(row, results[row["index"]]) for row in batch]
        failures = [
            Failure(str(result.error_kind), str(result.error_message), row["prompt"] or "")
            for row, result in of_batch
            if result.attempts and result.error_class in ("permanent", "resource")
        ]
        said = self.brake.note(sum(result.succeeded for _, result in of_batch), failures)
        return None if said is None else RunStoppedError(said)

    def commit(self, rows: ShardRows, results: Mapping[int, RowResult], *, shard: int) -> ShardSummary:
        """Commit a shard that was generated in pieces, by any workers, into the store; rows without result too."""
        results = _with_left(rows, results)
        if self._store.exists(part_name(shard, rows.retry_round)):  # and whoever committed it removed the pieces
            return _summary(shard, results, committed=False)
        summary = self._commit(rows, results, self._store, shard=shard)
        self._layout.clean_up(self._store, results)
        return summary

    def close(self) -> None:
        """End the writer threads and free the model."""
        self._writer.close()
        self._backend.close()

    def _commit(self, rows: ShardRows, results: Mapping[int, RowResult], pieces: Pieces, *, shard: int) -> ShardSummary:
        """Place the files and write the manifest part: the last thing a shard does, and what makes it done."""
        results = {index: self._with_cost(result) for index, result in results.items()}
        whole = {index: rows.add_earlier(index, result) for index, result in results.items()}
        table = rows.table
        if rows.retry_round:  # rows that were not run stay what they were in an earlier part
            whole = {index: result for index, result in whole.items() if result.status != NOT_RUN}
            table = table.filter(pc.field("index").isin(list(whole)))
        # A container has what its pictures are of; what they take the place of is the manifest's to say.
        of_container = table.drop_columns([SUPERSEDES] if self._context.plan.superseding else [])
        placed = self._layout.place(self._store, pieces, of_container, whole, shard=shard)
        part = build_part(table, placed, shard=shard, retry_round=rows.retry_round)
        self._require_weights()  # another driver may have begun with others while nothing was committed
        return _summary(shard, results, committed=self._store.put_if_absent(part_name(shard, rows.retry_round), part))

    def _collect(
        self,
        pending: Iterable[tuple[Row, Outcome, Future[dict[str, Any]]]],
        results: dict[int, RowResult],
    ) -> None:
        for row, outcome, future in pending:
            try:
                columns = {"status": "ok", "reproducibility": _reproducibility(outcome), **future.result()}
            except GenerationError as error:  # the backend's bytes are no image or video
                columns = failed_columns(error)
            results[row["index"]] = self._result(outcome, columns)

    def _check_batching(self, batch: Sequence[Row], outcomes: Sequence[Outcome], limits: TimeLimits) -> None:
        """Let the first batch of the run, or of its variant, be its canary."""
        context = self._context
        if self._canary_checked or context.retry is not None:
            return
        first = batch[0]["shard"] == context.plan.first_shard(context.variant)
        if first and context.spec.execution.batch_canary and all(outcome.batch_as_planned for outcome in outcomes):
            self._canary_checked = len(batch) > 1
            specimens = [
                Specimen(row["request_id"], row["batch_slot"], build_request(row, self._load_input), outcome.item)
                for row, outcome in zip(batch, outcomes, strict=True)
                if isinstance(outcome.item, GeneratedAsset)
            ]
            check_batching(
                self._store,
                self._backend,
                specimens,
                batch_size=len(batch),
                cancelled=limits.cancelled,
                folder=context.model_folder,
            )

    def _generate_batch(
        self, batch: Sequence[Row], limits: TimeLimits, budget: RetryBudget, *, size: int
    ) -> tuple[list[Outcome], Exception | None]:
        """One outcome per row, and what ended the shard meanwhile.

        Requests that failed for a passing reason are tried again, up to `max_attempts`. Of a batch of another `size`
        than planned, images are no longer bit-exact.
        """
        max_attempts = self._context.spec.execution.max_attempts
        outcomes: dict[int, Outcome] = {}
        requests: dict[int, VisionRequest] = {}
        ended: Exception | None = None
        for position, row in enumerate(batch):
            try:
                requests[position] = build_request(row, self._load_input)
                if self._previews is not None:
                    self._writer.preview(self._previews, row, requests[position])
            except GenerationError as error:
                outcomes[position] = Outcome(error)
            except StorageError as error:  # the store of the images is down
                ended = error
                break
        if requests and ended is None:
            self._agree_on_server()
        attempts = dict.fromkeys(requests, 0)
        waiting = [] if ended is not None else list(requests)
        for attempt in range(1, max_attempts + 1):
            if not waiting or limits.shard_over:
                break
            if attempt > 1 and not _wait_before_retry(attempt, limits.cancelled):
                ended = GenerationCancelledError("cancelled while waiting for another attempt")
                break
            started_at, clock = datetime.now(UTC), time.perf_counter()
            tried = self._forward([requests[position] for position in waiting], limits, budget)
            latency_s = time.perf_counter() - clock
            whole = len(waiting) == size
            ended = _what_ended(one.item for one in tried)
            for position, one in zip(waiting, tried, strict=True):
                attempts[position] += one.attempts
                planned = one.batch_as_planned and whole
                outcomes[position] = Outcome(one.item, attempts[position], planned, started_at, latency_s)
            waiting = [position for position in waiting if _class_of(outcomes[position].item) == "transient"]
            if ended is not None:
                break
            if attempt < max_attempts:
                waiting = [position for position in waiting if budget.take(1)]
        if any(outcome.finished and outcome.attempts for outcome in outcomes.values()):
            self._record_worker()
        if ended is not None:
            for position in waiting:  # it would have been tried again
                outcomes[position] = Outcome(ended, attempts[position])
        for position in set(range(len(batch))) - set(outcomes):
            why = limits.timeout() if ended is None else ended
            outcomes[position] = Outcome(why)
        return [outcomes[position] for position in range(len(batch))], ended

    def _forward(self, requests: Sequence[VisionRequest], limits: TimeLimits, budget: RetryBudget) -> list[Outcome]:
        """What became of each request; an exception that is no error of one request ends the shard.

        What does not fit in memory is halved. What is not done in time is run alone: its neighbour may be what hangs.
        """
        items: list[Item]
        try:
            with limits.forward(len(requests)) as cancelled:
                items = [*self._backend.generate_batch(requests, cancelled=cancelled)]
        except RunInterruptedError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again once what was finished before is committed
            items = [error] * len(requests)
        late = cancelled() and not limits.cancelled()
        several = len(requests) > 1
        if several and any(_class_of(item) == "resource" for item in items) and budget.take(len(requests)):
            half = len(requests) // 2
            parts = self._forward(requests[:half], limits, budget)
            if _what_ended(part.item for part in parts) is None:
                parts += self._forward(requests[half:], limits, budget)
            else:
                parts += [Outcome(GenerationCancelledError(NOT_BEGUN, begun=False), 0, False) for _ in requests[half:]]
            return [Outcome(part.item, part.attempts + 1, False) for part in parts]
        found: list[Outcome] = []
        for request, item in zip(requests, items, strict=True):
            if not (late and isinstance(item, GenerationCancelledError)):
                begun = not isinstance(item, GenerationCancelledError) or item.begun
                found.append(Outcome(item, int(begun)))
            elif several and not limits.shard_over and budget.take(1):
                (lone,) = self._forward([request], limits, budget)
                found.append(Outcome(lone.item, lone.attempts + 1, False))
            else:
                found.append(Outcome(limits.timeout(), 1))
        return found

    def _result(self, outcome: Outcome, columns: Mapping[str, Any]) -> RowResult:
        place = self._environment  # none where no request of the shard got as far as the backend
        return RowResult(
            **columns,
            attempts=outcome.attempts,
            started_at=outcome.started_at,
            finished_at=outcome.started_at + timedelta(seconds=outcome.latency_s),
            latency_s=outcome.latency_s,
            cost_usd=None if self._price is None else cost_usd(self._price, outcome.attempts, _usage(outcome.item)),
            worker=self._worker,
            device=None if place is None else place.device,
            device_name=None if place is None else place.device_name,
            environment_id=None if place is None else place.id,
        )

    def _with_cost(self, result: RowResult) -> RowResult:
        """A row that no worker lived to put a price to: a crash is billed like any other try."""
        if self._price is None or result.cost_usd is not None:
            return result
        return replace(result, cost_usd=cost_usd(self._price, result.attempts))


def _with_left(rows: ShardRows, results: Mapping[int, RowResult]) -> dict[int, RowResult]:
    """Return the results, and of the shard's other rows that they were not run."""
    left = set(rows.table["index"].to_pylist()) - set(results)
    return {**results, **dict.fromkeys(left, RowResult(**not_run(None), attempts=0))}


def _summary(shard: int, results: Mapping[int, RowResult], *, committed: bool) -> ShardSummary:
    succeeded = sum(result.succeeded for result in results.values())
    left = sum(result.status == NOT_RUN for result in results.values())
    tries, cost_usd = add_up(results.values())
    notes = Counter(note for result in results.values() for note in NOTED if _has_note(result, note))
    return ShardSummary(
        shard, succeeded, len(results) - succeeded - left, committed, tries, cost_usd, not_run=left, notes=notes
    )


def _has_note(result: RowResult, name: str) -> bool:
    """Whether a row's metadata have it; the text decides first, as few rows have one."""
    text = result.metadata_json
    return text is not None and f'"{name}"' in text and name in json.loads(text)


def _ends_shard(item: Item) -> bool:
    """Whether it is no result of a request: what ended the backend's work, or what that kept from being done."""
    return isinstance(item, Exception) and (
        not isinstance(item, GenerationError) or isinstance(item, GenerationCancelledError)
    )


def _what_ended(items: Iterable[Item]) -> Exception | None:
    """The cause rather than what it kept from being done."""
    found = [item for item in items if isinstance(item, Exception) and _ends_shard(item)]
    return min(found, key=lambda error: isinstance(error, GenerationCancelledError), default=None)


def _class_of(item: Item) -> ErrorClass | None:
    return item.error_class if isinstance(item, GenerationError) else None


def _usage(item: Item) -> Any:
    """What a server says that it counted, if it says so."""
    return item.metadata.get("usage") if isinstance(item, GeneratedAsset) else None


def _wait_before_retry(attempt: int, cancelled: Callable[[], bool]) -> bool:
    """Wait; whether nobody cancelled meanwhile."""
    # Full jitter: workers that failed together do not come back together.
    until = time.monotonic() + random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 2)))
    while time.monotonic() < until:
        if cancelled():
            return False
        time.sleep(min(0.1, max(0.0, until - time.monotonic())))
    return True


def _reproducibility(outcome: Outcome) -> str:
    """The backend's own word, or `bit-exact`; less where the forward pass was not the planned one.

    Kernels choose algorithms by batch size, so another size is another image by a level or so.
    """
    assets = outcome.item if isinstance(outcome.item, list) else [outcome.item]
    words = [
        str(asset.metadata.get("reproducibility", "bit-exact")) for asset in assets if isinstance(asset, GeneratedAsset)
    ]
    claimed = next((word for word in words if word != "bit-exact"), "bit-exact")  # of any view
    return "perceptual" if claimed == "bit-exact" and not outcome.batch_as_planned else claimed
