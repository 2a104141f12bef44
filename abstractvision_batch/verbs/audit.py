"""`avbatch audit`: proves that a run is whole, or says what is not; `--repair` mends what can be mended.

    plan files → each shard: rows = plan, files = rows, nothing else → leftovers → merged manifest = parts → root

Whole means: every planned request has exactly one newest row; every file that a row names is there with its size and
sha256, and every environment; there is no other file of ours; `manifest.parquet` is the parts. The root is the sha256
of a line for each request, in the order of the plan: its id and the sha256 of its files, with spaces between. So two
runs with one root have the same files.

A run of which something ended a shard early is whole, and not complete: the rows that were not run are said, the
manifest is not merged yet, and running the spec again does those rows.

Repair forgets the shards that lost rows or files, so that running the spec again redoes just those; it removes what
belongs to nothing, if it is ours by its name and older than a grace, since a retry may go on; and it merges again.
Artifacts of a shard that is not done yet are left alone: they are written again, or become orphans when it is done.

Not covered: repair of a damaged plan or `run.json`, the decoded pixels, the report other than `metadata.parquet`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from abstractvision_batch.errors import DamagedFileError
from abstractvision_batch.report.run_report import iter_made_rows, write_metadata, write_report
from abstractvision_batch.runs.columns import with_current_names
from abstractvision_batch.runs.counts import Counts, RowCounter
from abstractvision_batch.runs.environment_files import environment_name
from abstractvision_batch.runs.files import ENVIRONMENTS, FOLDERS, MANIFEST, METADATA, PARTS, README
from abstractvision_batch.runs.manifest import (
    PART_NAME,
    iter_merged,
    iter_shards,
    list_parts,
    missing_shards,
    part_name,
)
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.plan_rows import hash_file, read_ids, superseded_ids
from abstractvision_batch.runs.plan_summary import PlanFile, PlanSummary
from abstractvision_batch.runs.shard_audit import Artifacts, Finding, ShardAudit, audit_shard, orphan
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.names import is_temporary
from abstractvision_batch.storage.row_groups import iter_row_groups, read_footer
from abstractvision_batch.storage.store import Store
from abstractvision_batch.verbs.finish import merge

#: Artifacts read at a time; each is in memory whole.
READERS = 8
#: Younger orphans are left alone, in seconds: they may be of a retry that has not committed yet.
GRACE_S = 3600.0
#: What running the spec again mends, once the parts of the shard are gone.
REDONE = {
    *("missing_row", "foreign_row", "duplicate_row", "damaged_part", "damaged_row"),
    *("missing_file", "wrong_size", "wrong_hash"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport(Counts):
    """What an audit found and what its repair did; its counts are of the rows that can be read."""

    path: str
    left_shards: tuple[int, ...]
    """Shards that are not done, in order: they left no part, or something kept rows of them from being run."""
    files: int
    """Pictures and videos that rows name, each a file or a member of a container."""
    size_bytes: int
    """Of the pictures and videos, without the containers' own."""
    root: str | None
    """None where the plan cannot be read."""
    fast: bool
    findings: tuple[Finding, ...]
    removed: tuple[str, ...] = ()
    """Orphans that the repair removed."""
    forgotten: tuple[int, ...] = ()
    """Shards whose parts the repair removed; running the spec again redoes them."""
    merged: bool = False
    """Whether the repair merged the manifest anew."""
    rewritten: bool = False
    """Whether the repair wrote `metadata.parquet` again."""

    also_json: ClassVar[tuple[str, ...]] = (*Counts.also_json, "whole", "complete", "findings_by_kind", "exit_code")

    @property
    def remaining(self) -> tuple[Finding, ...]:
        """Findings that are still true after the repair."""
        removed = {*self.removed, *([MANIFEST] if self.merged else []), *([METADATA] if self.rewritten else [])}
        return tuple(finding for finding in self.findings if finding.name not in removed)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong, now."""
        return not self.remaining

    @property
    def complete(self) -> bool:
        """Whether every request has a result."""
        return not self.left_shards

    @property
    def exit_code(self) -> int:
        """0 where the run is whole and complete now, else 1."""
        return 0 if self.whole and self.complete else 1

    @property
    def findings_by_kind(self) -> dict[str, int]:
        """Count the findings of each kind."""
        return dict(sorted(Counter(finding.kind for finding in self.findings).items()))


def audit(
    run: str | Path | Run,
    storage_options: Mapping[str, Any] | None = None,
    *,
    fast: bool = False,
    repair: bool = False,
    grace_s: float = GRACE_S,
) -> AuditReport:
    """Check that a run is whole.

    Args:
        run: Folder or URL of the run, or the run, opened.
        storage_options: fsspec options of its store.
        fast: Do not read artifacts: a file of the right size is right.
        repair: Mend what can be mended.
        grace_s: Age from which the repair removes what belongs to nothing.

    Raises:
        SpecError: there is no run.
        StorageError: the store cannot be listed or read, or the repair cannot write.
    """
    opened = open_run(run, storage_options)
    report = check_run(opened, fast=fast)
    return repair_run(opened, report, grace_s=grace_s) if repair and report.findings else report


def check_run(run: Run, *, fast: bool) -> AuditReport:
    """Look at everything, change nothing."""
    store, plan = run.store, run.plan
    parts = list_parts(store)
    missing = set(missing_shards(plan, parts))
    findings = list(_check_plan_files(store, plan))
    readable = not findings
    planned: Iterator[list[str] | None] = _read_planned(store, plan) if readable else repeat(None)
    artifacts = Artifacts(store)
    environments: set[str] = set()
    root, counter, files, size_bytes = hashlib.sha256(), RowCounter(), 0, 0
    superseded = superseded_ids(store.open, plan) if readable else frozenset()
    with ThreadPoolExecutor(READERS, thread_name_prefix="audit") as pool:

        def look_at(one: tuple[int, list[str] | None]) -> ShardAudit:
            shard, request_ids = one
            if shard in missing:
                said = f"shard {shard} is not done"
                return ShardAudit([Finding("missing_shard", part_name(shard, 0), said, shard)])
            return audit_shard(
                artifacts, shard, parts[shard], request_ids, each=pool.map, fast=fast, superseded=superseded
            )

        for (_, request_ids), found in map_in_flight(zip(range(plan.shards), planned, strict=False), look_at):
            hashes = found.hashes()
            for request_id in request_ids or ():
                root.update(" ".join([request_id, *hashes.get(request_id, ())]).encode() + b"\n")
            findings += found.findings
            environments |= found.environments
            if found.rows is not None:
                counter.add(found.rows)
            files, size_bytes = files + len(found.files), size_bytes + sum(file.size_bytes for file in found.files)
    findings += _check_environments(store, environments)
    findings += _find_leftovers(store, plan)
    findings += [orphan(name, "of no shard", file.modified_at) for name, file in artifacts.of_no_shard(plan.shards)]
    if not missing and not counter.unfinished and not any(finding.kind in REDONE for finding in findings):
        planned_parts = {shard: parts[shard] for shard in range(plan.shards)}
        unmerged = [*_check_merged(store, iter_shards(store, plan, planned_parts))]
        findings += unmerged or _check_metadata(store)
    return AuditReport(
        **counter.counts(plan, missing).values(),
        path=run.url,
        left_shards=tuple(sorted(missing | counter.unfinished.keys())),
        files=files,
        size_bytes=size_bytes,
        root=root.hexdigest() if readable else None,
        fast=fast,
        findings=tuple(findings),
    )


def repair_run(run: Run, report: AuditReport, *, grace_s: float) -> AuditReport:
    """Mend what was found, as far as it can be mended without generating."""
    store, parts = run.store, list_parts(run.store)
    before = datetime.now(UTC) - timedelta(seconds=grace_s)
    removed = []
    for finding in report.findings:
        if finding.kind == "orphan" and finding.modified_at is not None and finding.modified_at <= before:
            store.delete(finding.name)
            removed.append(finding.name)
    forgotten = sorted({f.shard for f in report.findings if f.kind in REDONE and f.shard is not None})
    if forgotten:
        store.delete(MANIFEST)
    for shard in forgotten:
        # The newest first: a crash here leaves the shard's earlier rows, which the next repair looks at. A later part
        # that outlived the first would win over what is generated anew.
        for retry_round in reversed(parts[shard]):
            store.delete(part_name(shard, retry_round))
    merged = not missing_shards(run.plan, list_parts(store)) and any(f.kind == "manifest" for f in report.findings)
    if merged:
        merge(store, run.record)
        write_report(store, run.record.data)
    rewritten = any(f.kind == "metadata" for f in report.findings)  # only of a manifest that is whole
    if rewritten:
        write_metadata(store)
    return replace(report, removed=tuple(removed), forgotten=tuple(forgotten), merged=merged, rewritten=rewritten)


def _check_plan_files(store: Store, plan: PlanSummary) -> Iterator[Finding]:
    def digest_of(file: PlanFile) -> str | None:
        return hash_file(store.open, file.name) if store.exists(file.name) else None

    for file, digest in map_in_flight(plan.files, digest_of):
        if digest is None:
            yield Finding("plan_file", file.name, "is not there (run the spec again, which writes it)")
        elif digest != file.sha256:
            said = "is not the plan of run.json: another sha256 (delete it and run the spec again)"
            yield Finding("plan_file", file.name, said)


def _read_planned(store: Store, plan: PlanSummary) -> Iterator[list[str]]:
    """Request ids of each shard."""
    for file in plan.files:
        yield from read_ids(store.open, file)


def _check_environments(store: Store, named: Iterable[str]) -> Iterator[Finding]:
    """Whether what rows say of where they were made is there."""
    there = set(store.list(ENVIRONMENTS))
    for name in sorted(map(environment_name, named)):
        if name.removeprefix(f"{ENVIRONMENTS}/") not in there:
            yield Finding("missing_environment", name, "is not there: what the rows that name it were made on is lost")


def _find_leftovers(store: Store, plan: PlanSummary) -> Iterator[Finding]:
    """What lies outside `artifacts/`, is ours by its name and belongs to nothing: temporary files and far parts.

    Other files (`.gitattributes`, notes) are their owner's.
    """
    for folder in FOLDERS:
        for file in store.scan(folder):
            name = f"{folder}/{file.name}".lstrip("/")
            if is_temporary(file.name):
                yield orphan(name, "a temporary file that a crash left", file.modified_at)
            elif folder == PARTS and (match := PART_NAME.match(file.name)) and int(match[1]) >= plan.shards:
                yield orphan(name, "no part of a shard of this plan", file.modified_at)


def _check_merged(store: Store, tables: Iterator[pa.Table]) -> Iterator[Finding]:
    """Whether the merged manifest has the rows of the parts, in their order."""
    said = "is not merged of the parts that are there (run the spec again, or --repair)"
    if not store.exists(MANIFEST):
        yield Finding("manifest", MANIFEST, "is not there (run the spec again, or --repair)")
        return
    try:
        footer = read_footer(store, MANIFEST)
        empty = with_current_names(footer.metadata.schema.to_arrow_schema().empty_table())
        same = _same_rows(iter_merged(store, footer=footer), tables, waiting=empty)
    except DamagedFileError as exc:
        same, said = False, f"cannot be read: {exc.__cause__} (--repair merges it again)"
    if not same:
        yield Finding("manifest", MANIFEST, said)


def _check_metadata(store: Store) -> Iterator[Finding]:
    """Whether `metadata.parquet`, where a report has one, has the manifest's rows that have a file."""
    if not (store.exists(README) and store.exists(METADATA)):
        return
    said = "has other rows than the manifest (--repair writes it again)"
    try:
        footer = read_footer(store, METADATA)
        empty = with_current_names(footer.metadata.schema.to_arrow_schema().empty_table())
        there = map(with_current_names, iter_row_groups(store, METADATA, footer=footer))
        same = _same_rows(there, iter_made_rows(store), waiting=empty)
    except DamagedFileError as exc:
        same, said = False, f"cannot be read: {exc.__cause__} (--repair writes it again)"
    if not same:
        yield Finding("metadata", METADATA, said)


def _same_rows(merged: Iterator[pa.Table], parts: Iterator[pa.Table], *, waiting: pa.Table) -> bool:
    for part in parts:
        while waiting.num_rows < part.num_rows:
            further = next(merged, None)
            if further is None:
                return False
            waiting = pa.concat_tables([waiting, further])
        one, waiting = waiting.slice(0, part.num_rows), waiting.slice(part.num_rows)
        # NaN, which a prompt dataset may hold, equals nothing but is written the same.
        if not one.equals(part) and repr(one.to_pylist()) != repr(part.to_pylist()):
            return False
    return waiting.num_rows == 0 and next(merged, None) is None
