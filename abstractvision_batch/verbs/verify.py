"""`avbatch verify`: generates rows of a run again, in a temporary place, and compares their pixels.

    run.json → chosen rows → the batches that they are in → execute → compare row by row → verdicts

A whole batch is generated again, since kernels choose algorithms by its shape; all of it is compared. What counts as a
match depends on the row's reproducibility class: `bit-exact` demands equal pixels, `perceptual` and `seeded-remote`
pictures that the eye hardly tells apart; `unseeded` rows cannot be verified and are not chosen.

Not covered: rows that failed; two runs as wholes (`diff`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.progress import ProgressListener
from abstractvision_batch.media.compare import Comparison
from abstractvision_batch.plan.build import select_batches
from abstractvision_batch.runs.columns import NOT_RUN, OK
from abstractvision_batch.runs.manifest import iter_rows, list_parts, read_shard_rows
from abstractvision_batch.runs.named_requests import find_requests
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.verbs.changes import Change, environment_changes, input_changes, weights_changes
from abstractvision_batch.verbs.diff import compare_rows
from abstractvision_batch.verbs.finish import finish_run
from abstractvision_batch.verbs.reload import load_recorded
from abstractvision_batch.verbs.rerun import execute_plan, redirect

DEFAULT_SAMPLE = 8

Verdict = Literal["match", "mismatch", "failed", "not verifiable"]


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """What became of one row that was generated again."""

    request_id: str
    prompt: str
    reproducibility: str
    verdict: Verdict
    comparison: Comparison | None
    """None where nothing was generated to compare."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found."""

    path: str
    rows: tuple[RowVerdict, ...]
    verifiable: int
    """Rows of the run that could be chosen."""
    changes: tuple[Change, ...] = ()
    """What is not as it was when the run was made: software, machine, switches, weights, input images."""
    interrupted: bool = False

    also_json: ClassVar[tuple[str, ...]] = ("generated_again", "identical", "by_verdict", "exit_code")

    @property
    def generated_again(self) -> int:
        """Rows that were generated again."""
        return len(self.rows)

    @property
    def by_verdict(self) -> dict[str, int]:
        """Count the rows with each verdict."""
        return dict(sorted(Counter(row.verdict for row in self.rows).items()))

    def count(self, verdict: Verdict) -> int:
        """Rows with a verdict."""
        return sum(row.verdict == verdict for row in self.rows)

    @property
    def identical(self) -> int:
        """Rows with equal pixels."""
        return sum(row.comparison is not None and row.comparison.verdict == "identical" for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 where every row matches, 1 where one does not, 130 where it was interrupted."""
        return 130 if self.interrupted else 1 if self.count("mismatch") or self.count("failed") else 0


def verify(
    run: str | Path | Run,
    *,
    sample: int | None = DEFAULT_SAMPLE,
    ids: Collection[str] = (),
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: ProgressListener | None = None,
) -> VerifyReport:
    """Generate rows of a run again and compare.

    Args:
        run: Folder or URL of the run, or the run, opened.
        sample: How many rows, spread over everything that the run's requests differ in; None: all of them.
        ids: Request ids, or their first characters, in place of a sample.
        output: Where to keep what is generated, for a look or `diff`; a temporary folder by default.
        overrides: ``dotted.key=value`` strings for fields that change no pixel, as ``execution.executor=inline``.
        trust: Use servers, secrets, programs and paths that the run recorded, though this user did not start it.
        storage_options: fsspec options of the run's store.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: there is no run or no such row, or an override would change pixels.
        DependencyError: a model or a package is missing.
        StorageError: reading or writing failed.
        ClusterError: Ray failed.
    """
    source = open_run(run, storage_options)
    ids = find_requests(source.store.open, source.plan, tuple(ids)).ids if ids else ()
    chosen, verifiable = choose_rows(source, sample=sample, ids=ids)
    with scratch_folder() as scratch:
        target = output if output is not None else scratch / "run"
        moved = [*redirect(source, target), *overrides]
        job = load_recorded(run, source, verb="a verification", overrides=moved, trust=trust)
        plan_folder = scratch / "plan"
        plan_folder.mkdir()
        if not chosen.num_rows:
            return VerifyReport(source.url, (), verifiable)
        batches = batches_by_shard(chosen)
        plan = select_batches(source.store.open, source.plan, batches, plan_folder)
        store, record, tracker, ending = execute_plan(source, job, plan, plan_folder, on_progress)
        if output is not None:
            finish_run(store, record, tracker)  # what is kept is a run like any other
        again = Run(store, record)
        options = job.prompt_options()
        rows = tuple(compare_shards(source, again, sorted(batches), frozenset(ids)))
        changes = (
            *weights_changes(source, again),
            *environment_changes(source, again),
            *input_changes(_rows_without_input(again), options),
        )
    return VerifyReport(source.url, rows, verifiable, changes, interrupted=ending.interrupted)


def batches_by_shard(rows: pa.Table) -> dict[int, set[int]]:
    """The batches that rows are in, by shard."""
    batches: dict[int, set[int]] = {}
    for shard, batch in zip(rows["shard"].to_pylist(), rows["batch_id"].to_pylist(), strict=True):
        batches.setdefault(shard, set()).add(batch)
    return batches


def compare_shards(source: Run, again: Run, shards: Sequence[int], ids: Collection[str]) -> Iterator[RowVerdict]:
    """Verdicts on what was generated again, one shard in memory at a time.

    Args:
        source: The run.
        again: What was generated again; its shard n is of the rows of `shards[n]`.
        shards: Numbers of shards of `source`.
        ids: Rows to judge; all where it is empty.
    """
    parts = list_parts(source.store)
    for number, attempts in list_parts(again.store).items():
        left = {row["request_id"]: row for row in _shard_rows(source, shards[number], parts[shards[number]])}
        for right in _shard_rows(again, number, attempts):
            original = left[right["request_id"]]
            if right["status"] == NOT_RUN:  # the verification was interrupted
                continue
            if original["status"] == OK and (not ids or right["request_id"] in ids):
                yield judge(source, again, original, right)


def judge(source: Run, again: Run, left: Mapping[str, Any], right: Mapping[str, Any]) -> RowVerdict:
    """The verdict on one row, by its reproducibility class."""
    said = str(left["reproducibility"])
    if right["status"] != OK:
        note = f"{right['error_kind']}: {right['error_message']}"
        return RowVerdict(left["request_id"], left["prompt"], said, "failed", None, note)
    comparison = compare_rows(source, left, again, right)
    verdict: Verdict = "mismatch"
    if said == "unseeded":
        verdict = "not verifiable"
    elif comparison.verdict == "identical" or (said != "bit-exact" and comparison.verdict == "close"):
        verdict = "match"
    return RowVerdict(left["request_id"], left["prompt"], said, verdict, comparison)


def _rows_without_input(run: Run) -> Iterator[dict[str, Any]]:
    """Rows whose input image was refused: that of any other row is what it was."""
    for shard, attempts in list_parts(run.store).items():
        yield from (row for row in _shard_rows(run, shard, attempts) if row["error_kind"] == "input")


def _shard_rows(run: Run, shard: int, attempts: Sequence[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_shard_rows(run.store, shard, attempts).to_pylist()
    return rows


#: Rows that differ in one of these, or in size of batch, take another path through a model: each is a stratum.
STRATUM_COLUMNS = (
    "task", "steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength", "params_json", "batch_size",
)  # fmt: skip
_ROW_COLUMNS = (
    "index", "request_id", "shard", "batch_id", "prompt", "status", "reproducibility", *STRATUM_COLUMNS,
)  # fmt: skip


def choose_rows(source: Run, *, sample: int | None, ids: Collection[str]) -> tuple[pa.Table, int]:
    """The rows to generate again, and how many could be: those that succeeded and had a seed.

    A sample takes from each stratum in turn the rows with the lowest request ids. These are hashes, so that is a random
    sample, and the same one every time.

    Args:
        source: The run.
        sample: How many rows; None: all.
        ids: Request ids, in place of a sample.

    Raises:
        SpecError: an id is not of the run, or its row has nothing to compare with.
    """
    chosen, strata = [], defaultdict[tuple[Any, ...], list[pa.Table]](list)
    verifiable, unknown = 0, set(ids)
    for table in iter_rows(source.store, list(_ROW_COLUMNS)):
        good = table.filter((pc.field("status") == "ok") & (pc.field("reproducibility") != "unseeded"))
        verifiable += good.num_rows
        if ids:
            good = good.filter(pc.field("request_id").isin(list(ids)))
            unknown -= set(good["request_id"].to_pylist())
        if ids or sample is None:
            chosen.append(good)
            continue
        for stratum, rows in _strata(good):
            lowest = pa.concat_tables([*strata[stratum], rows]).sort_by("request_id").slice(0, sample)
            strata[stratum] = [lowest]
    if unknown:
        raise SpecError(
            f"{source.url}: no row to verify has the id {', '.join(sorted(unknown)[:3])} "
            "(the manifest's column request_id has them; the row must have succeeded with a seed)"
        )
    if sample is not None and not ids:
        tables = [strata[key][0] for key in sorted(strata, key=repr)]
        quotas = _share_out(sample, [rows.num_rows for rows in tables])
        chosen = [rows.slice(0, quota) for rows, quota in zip(tables, quotas, strict=True)]
    return pa.concat_tables(chosen) if chosen else pa.table({name: [] for name in _ROW_COLUMNS}), verifiable


def _strata(rows: pa.Table) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    keys = rows.select(list(STRATUM_COLUMNS)).group_by(list(STRATUM_COLUMNS), use_threads=False).aggregate([])
    for key in keys.to_pylist():
        condition = pc.scalar(True)
        for name, value in key.items():
            condition = condition & (pc.field(name).is_null() if value is None else pc.field(name) == value)
        yield tuple(key.values()), rows.filter(condition)


def _share_out(sample: int, sizes: Sequence[int]) -> list[int]:
    """How many of each stratum: one of each in turn, until the sample is full."""
    quotas = [0] * len(sizes)
    while sample > 0 and any(quota < size for quota, size in zip(quotas, sizes, strict=True)):
        for position, size in enumerate(sizes):
            if sample > 0 and quotas[position] < size:
                quotas[position] += 1
                sample -= 1
    return quotas
