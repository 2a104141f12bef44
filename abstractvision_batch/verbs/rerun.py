"""`avbatch rerun`: executes the frozen plan of a run again, with what the run recorded, into another output.

    run.json → its spec and card → its plan files, byte for byte → execute → merge → report

Nothing is planned anew: prompt files may have changed or gone. Interrupted, the same command resumes.

Not covered: whether the pixels are the same (`diff`; `verify` does both for a sample).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import SpecError
from abstractvision_batch.execute.executor_choice import choose_executor
from abstractvision_batch.execute.progress import ProgressListener, ProgressTracker
from abstractvision_batch.execute.run_server import read_server
from abstractvision_batch.job.load import Job
from abstractvision_batch.runs.files import SERVER
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.runs.plan_rows import require_plan_file
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RunRecord, build_record, read_record, require_same_layout, write_record
from abstractvision_batch.runs.started import note_started
from abstractvision_batch.storage.file_hashes import hash_file
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.store import Store
from abstractvision_batch.storage.urls import protocol_of
from abstractvision_batch.verbs.changes import find_changes_since
from abstractvision_batch.verbs.execution import Ending, execute
from abstractvision_batch.verbs.finish import RunResult, describe_result, finish_run
from abstractvision_batch.verbs.model_check import check_model, check_weights
from abstractvision_batch.verbs.reload import load_recorded

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 8 << 20


def rerun(
    run: str | Path | Run,
    output: str | Path,
    *,
    overrides: Sequence[str] = (),
    strict: bool = False,
    accept_weights: bool = False,
    trust: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: ProgressListener | None = None,
) -> RunResult:
    """Execute a run's plan again.

    What has changed since (packages, machine, switches) is logged as a warning each; other weights are refused.

    Args:
        run: Folder or URL of the run, or the run, opened.
        output: Folder or URL of the new one.
        overrides: ``dotted.key=value`` strings for fields that change no pixel, as ``execution.actors=8``.
        strict: Refuse every change, in place of a warning.
        accept_weights: Warn of other weights too, in place of refusing them.
        trust: Use servers, secrets, programs and paths that the run recorded, though this user did not start it.
        storage_options: fsspec options of the store of `run`; those of `output` are the spec's, or overridden.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: there is no run, an override would change pixels, the output holds another run, or what has changed
            since is refused.
        DependencyError: a model or a package is missing.
        StorageError: reading or writing failed; the same command resumes.
        ClusterError: Ray failed; the same command resumes.
    """
    clock = time.monotonic()
    source = open_run(run, storage_options)
    moved = [*redirect(source, output), *overrides]
    job = load_recorded(run, source, verb="a rerun", overrides=moved, trust=trust)
    _check_changes(source, job, strict=strict, accept_weights=accept_weights)
    with scratch_folder() as folder:
        copy_plan(source, folder)
        store, record, tracker, ending = execute_plan(source, job, source.plan, folder, on_progress)
    record, counts = finish_run(store, record, tracker)
    return describe_result(store, record, tracker, ending, counts, elapsed_s=time.monotonic() - clock)


def redirect(source: Run, output: str | Path) -> list[str]:
    """Overrides that send a run's spec to another output; options of a store go with it only to one of its kind."""
    moved = [f"output.path={json.dumps(str(output))}"]
    if protocol_of(source.record.spec.output.path) != protocol_of(str(output)):
        moved.append("output.storage_options={}")
    return moved


def copy_plan(source: Run, folder: Path) -> None:
    """Copy the files of a run's plan into a local folder.

    Raises:
        StorageError: one cannot be read, or is not the plan that the run recorded.
    """
    for file in source.plan.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with source.store.open(file.name) as stream, path.open("xb") as copy:
            while (block := stream.read(_BLOCK_BYTES)) and copy.tell() <= file.size_bytes:
                copy.write(block)
        require_plan_file(file, hash_file(path))


def execute_plan(
    source: Run, job: Job, plan: PlanSummary, folder: Path, on_progress: ProgressListener | None
) -> tuple[Store, RunRecord, ProgressTracker, Ending]:
    """Execute a plan that was planned before, the whole of a run's or a part, in the output of `job`.

    Args:
        source: The run that it is of.
        job: Its spec, with the new output.
        plan: The plan; its files are in `folder`.
        folder: A local folder.
        on_progress: Called with the counts whenever they change.

    Raises:
        SpecError: the output holds another run.
    """
    store = job.open_output(writable=True)
    record = read_record(store)
    if record is None:
        check_model(job)
        record = write_record(store, _new_record(source, job, plan, store.probe_conditional_put()))
        note_started(store, record)
        for models in record.model_folders:
            if (server := read_server(source.store, models)) is None:  # so that requests are written as they were
                continue
            store.put_if_absent(models + SERVER, json.dumps(server, indent=2, sort_keys=True).encode() + b"\n")
    if record.plan.files != plan.files or record.data.get("rerun_of", {}).get("run_id") != source.record.data["run_id"]:
        raise SpecError(
            f"{store.url}: holds another run, {record.data['name']} of {record.data['created_at']} "
            "(choose another output)"
        )
    require_same_layout(record, job.spec, place=f"{store.url}: output.layout")
    check_weights(job, store)
    for file in plan.files:
        store.put_if_absent(file.name, folder / file.name)
    tracker, ending = execute(job, store, plan, on_progress)
    return store, record, tracker, ending


def _check_changes(source: Run, job: Job, *, strict: bool, accept_weights: bool) -> None:
    changes = list(find_changes_since(source, job))
    refused = [change for change in changes if strict or (change.kind == "weights" and not accept_weights)]
    if refused:
        how = "put them back" if strict else "put them back, or accept the others: --accept-weights"
        problems = [f"{source.url}: {change} ({how})" for change in refused]
        raise SpecError("\n".join(problems), problems=tuple(problems))
    for change in changes:
        logger.warning("%s: %s: pixels may differ", source.url, change)


def _new_record(source: Run, job: Job, plan: PlanSummary, conditional_put: bool | None) -> RunRecord:
    record = build_record(
        job,
        plan,
        conditional_put=conditional_put,
        executor=asdict(choose_executor(*job.specs)),
        spec_path=str(source.record.data["spec_path"]),
    )
    origin = {"path": source.url, "run_id": source.record.data["run_id"]}
    return replace(record, revisions=({**record.revisions[0], "rerun_of": origin},))
