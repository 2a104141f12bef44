"""How a run begins: what it needs is checked, then it is new, resumed or extended.

    spec → checked; output → opened; nothing there → planned, recorded
                                     the same run there → resumed
                                     a smaller run there, and --extend → what it lacks planned, recorded

A record is written before the files of its plan, put-if-absent, and has their hashes. So two drivers agree on one run,
and files that a crash left out are written by the next invocation, whether it extends or not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from abstractvision_batch.backends.table import require_extra
from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.execute.executor_choice import choose_executor
from abstractvision_batch.execute.executors import require_executor
from abstractvision_batch.execute.ray.address import find_address
from abstractvision_batch.job.env import escape_references
from abstractvision_batch.job.load import Job, load_job
from abstractvision_batch.job.model import JobSpec, OutputSpec
from abstractvision_batch.job.variants import change_variants
from abstractvision_batch.plan.build import build_plan, prompts_digest
from abstractvision_batch.prompts.frames import keep_table, list_tables
from abstractvision_batch.runs.counts import count_rows
from abstractvision_batch.runs.files import ARTIFACTS, ENVIRONMENTS, EXECUTOR, MODEL_FILES, RECORD
from abstractvision_batch.runs.manifest import list_parts
from abstractvision_batch.runs.plan_rows import hash_file
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import (
    RunRecord,
    build_record,
    cards_of,
    describe_difference,
    extend_record,
    read_record,
    recorded_time,
    require_same_layout,
    write_record,
)
from abstractvision_batch.runs.started import note_started, was_started_here
from abstractvision_batch.runs.weights import find_conflict
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.store import Store
from abstractvision_batch.verbs.extend import existing_plan, mark_superseded, output_of, plan_extension
from abstractvision_batch.verbs.model_check import check_model, check_server, check_weights, find_weights

logger = logging.getLogger(__name__)


def require_installed(job: Job) -> None:
    """Check that what the backend and the executor of a job import is installed, and that its cluster can be named.

    Raises:
        DependencyError: it is not.
        SpecError: the address of the cluster is none that a driver joins.
    """
    for variant in job.variants:
        with variant.blame("backend.kind"):
            require_extra(variant.spec.backend.kind)
    with job.blame("execution.executor"):
        require_executor(*job.specs)
    if choose_executor(*job.specs).executor == "ray":
        find_address(job.spec.execution, place=job.at("execution.address"))


def _write_to(output: OutputSpec, job: Job) -> Job:
    return replace(job, spec=job.spec.model_copy(update={"output": output}))


def choose_output(job: Job) -> Job:
    """The spec with the first output, by number, that holds no run or this one.

    Raises:
        SpecError: nothing can be written there.
        StorageError: the outputs cannot be read.
    """
    weights = {variant.model_folder: find_weights(variant) for variant in job.variants}
    path = job.spec.output.path.rstrip("/")
    for number in count(1):
        output = job.spec.output.model_copy(update={"path": path if number == 1 else f"{path}-{number}"})
        candidate = job.with_each(partial(_write_to, output))
        store = candidate.open_output(writable=True)
        record = read_record(store)
        same = record is not None and record.layout == output.layout and _is_run_of(candidate, record)
        if record is None or (
            same and not any(found and find_conflict(store, found, folder) for folder, found in weights.items())
        ):
            return candidate
    raise AssertionError("unreachable")


def _is_run_of(job: Job, record: RunRecord) -> bool:
    job = job.under(record.fingerprint_version)
    return record.fingerprint == job.fingerprint(prompts_digest(job))


def as_begun(job: Job, record: RunRecord) -> Job:
    """The spec as its run was begun: one of before there were dialects keeps to its request shape.

    A variant that was renamed since keeps the name that it has in the run.

    Raises:
        SpecError: two variants would have one name then.
    """
    if job.parts:
        return _with_recorded_names(job, record)
    backend = job.spec.backend.as_begun(record.revisions[0]["spec"]["backend"])
    return replace(job, spec=job.spec.model_copy(update={"backend": backend}))


def _with_recorded_names(job: Job, record: RunRecord) -> Job:
    names = {variant["settings"]: variant["name"] for variant in record.variants}

    def name_of(part: Job) -> str | None:
        return names.get(part.fingerprint(""), part.variant)

    twice = [name for name, count in Counter(map(name_of, job.parts)).items() if count > 1]
    if twice:
        raise SpecError(
            f"{job.at('variants')}: {twice[0]} is another variant in the run there (give the new one another name)"
        )
    return job.with_each(lambda part: replace(part, variant=name_of(part)))


def check_time_limits(job: Job) -> None:
    """Refuse time limits of requests and shards where nothing could end what hangs: in this process.

    Raises:
        SpecError: there are such.
    """
    if problems := _idle_time_limits(job):
        raise SpecError("\n".join(problems), problems=tuple(problems))


def _idle_time_limits(job: Job) -> list[str]:
    execution = job.spec.execution
    given = [name for name in ("request_timeout_s", "shard_timeout_s") if getattr(execution, name) is not None]
    if choose_executor(*job.specs).executor == "ray":
        return []
    return [
        f"{job.at(f'execution.{name}')}: nothing can end what hangs in this process "
        "(execution.executor: ray has workers that can be ended; or leave it out)"
        for name in given
    ]


def start_run(job: Job, store: Store, *, extend: bool = False) -> RunRecord:
    """Plan a new run and write its record and its plan, or find the same run there, or a smaller one to extend.

    Raises:
        SpecError: a prompt is wrong, the output holds another run, or extending it would do more than add.
        StorageError: the plan of the run there is incomplete, and cannot be completed.
    """
    record = read_record(store)
    if record is None:
        return _start_new_run(job, store)
    for problem in _idle_time_limits(job):
        logger.warning("%s", problem)  # a run that was begun with it goes on
    job = job.under(record.fingerprint_version)
    job = _with_recorded_names(job, record) if job.parts else job
    digest = prompts_digest(job)
    if record.fingerprint == job.fingerprint(digest):
        require_same_layout(record, job.spec, place=job.at("output.layout"))
        check_weights(job, store)
        _complete_plan(record, store, job)
        if _is_of(record, job):
            note_started(store, record)
        return record
    if not extend:
        _refuse(job, store, record, digest)
    check_weights(job, store)
    _complete_plan(record, store)
    return _extend_run(job, store, record)


def _start_new_run(job: Job, store: Store) -> RunRecord:
    check_time_limits(job)
    with scratch_folder() as folder:
        plan = build_plan(job, folder)
        check_model(job)
        check_server(job)
        with job.blame("output.path"):
            record = build_record(
                job,
                plan,
                conditional_put=store.probe_conditional_put(),
                executor=asdict(choose_executor(*job.specs)),
            )
            keep_table(job, store)
            record = write_record(store, record)
        if record.fingerprint != job.fingerprint(plan.prompts_digest):  # another driver was faster
            _refuse(job, store, record, plan.prompts_digest)
        require_same_layout(record, job.spec, place=job.at("output.layout"))
        _put_plan_files(store, record.plans[0], plan, folder)
        if not record.revisions[0].get("conditional_put"):
            record = _require_own_run(job, store, plan, folder)
    note_started(store, record)
    return record


def _is_of(record: RunRecord, job: Job) -> bool:
    """Whether a run that is there names nothing that the user's spec does not: then it is as good as started by it.

    Its plan may name other pictures, where the task takes any.
    """
    revision = record.revisions[-1]
    return (
        len(record.revisions) == 1
        and job.spec.task in ("text_to_image", "text_to_video")
        and revision["spec"] == job.spec.model_dump(mode="json")
        and revision["card"] == job.card.to_json()
        and revision["base_dir"] == str(job.base_dir.absolute())
    )


def _require_own_run(job: Job, store: Store, plan: PlanSummary, folder: Path) -> RunRecord:
    """Look again, where a put replaces what another driver put in the same moment: the record that stayed decides.

    Raises:
        SpecError: it is another spec's.
    """
    record = read_record(store)
    if record is None:
        raise StorageError(f"{store.url}: its run.json vanished while the run started (run again)")
    if record.fingerprint != job.fingerprint(plan.prompts_digest):
        _refuse(job, store, record, plan.prompts_digest)
    _put_plan_files(store, record.plans[0], plan, folder)
    for file in plan.files:
        if hash_file(store.open, file.name) != file.sha256:  # the refused driver's
            store.put(file.name, folder / file.name)
    return record


def _extend_run(job: Job, store: Store, record: RunRecord) -> RunRecord:
    """Record what the spec adds, and write the plan of it; the run as it was where that is nothing."""
    with scratch_folder() as folder:
        added = plan_extension(job, store, record, folder)
        if not added.requests:
            return record
        check_model(job)
        known = was_started_here(store, record)
        extended = extend_record(record, job, added)
        keep_table(job, store)
        found = write_record(store, extended)
        if found.fingerprint != extended.fingerprint:
            raise SpecError(
                f"{output_of(job)} was extended by another driver meanwhile, with another spec "
                "(run the same command again, which extends what it left)"
            )
        if known:
            note_started(store, found)
        _put_plan_files(store, found.plans[-1], added, folder)
    return found


def take_back_run(store: Store, record: RunRecord) -> None:
    """Remove a run that this driver has begun and that nothing came of, so that its output is free for another spec.

    A run that has a part, an artifact or an extension stays, and so does every file that is not the run's. The record
    goes last: what a crash leaves is the run still.
    """
    found = read_record(store)
    if found is None or found.revisions[0]["run_id"] != record.revisions[0]["run_id"]:
        return  # another driver's
    if len(found.revisions) > 1 or list_parts(store) or store.scan(ARTIFACTS) or store.list_folders(ARTIFACTS):
        return
    environments = [f"{ENVIRONMENTS}/{name}" for name in store.list(ENVIRONMENTS)]
    kept = (*environments, *list_tables(store))
    models = [folder + name for folder in found.model_folders for name in MODEL_FILES]
    for name in (*kept, EXECUTOR, *models, *(file.name for file in found.plan.files), RECORD):
        store.delete(name)
    logger.warning("%s: nothing was generated, so the run that was begun there is taken back", store.url)


def _complete_plan(record: RunRecord, store: Store, job: Job | None = None) -> None:
    """Write files of the plan that a crash left out; `loaded` is the newest of the run's specs."""
    for number, (revision, planned) in enumerate(zip(record.revisions, record.plans, strict=True)):
        if not _absent_files(store, planned):
            continue
        spec = job if number == len(record.revisions) - 1 else None
        if spec is None and not was_started_here(store, record):
            raise SpecError(
                f"{store.url}: its plan is incomplete, and the prompts that its run.json names would be read to make "
                f"it again, but you did not start this run (restore {planned.files[0].name}, or start a new run)"
            )
        with scratch_folder() as folder:
            existing = existing_plan(store, record.plan_of(number)) if number else None
            spec = spec or _recorded_spec(revision)
            plan = build_plan(spec, folder, existing, format=planned.format)
            if planned.superseding and existing is not None:
                plan = mark_superseded(spec, folder, existing, plan)
            _put_plan_files(store, planned, plan, folder)


def _absent_files(store: Store, plan: PlanSummary) -> set[str]:
    """Files of a plan that are not there, by listing their folder: a long plan has hundreds."""
    names = {file.name for file in plan.files}
    folders = {name.rpartition("/")[0] for name in names}
    return names - {f"{folder}/{name}".lstrip("/") for folder in folders for name in store.list(folder)}


def _recorded_spec(revision: Mapping[str, Any]) -> Job:
    """The spec of a revision, as if it were given again: a plan differs by whether a default was written out."""
    spec = JobSpec.from_record(revision["spec"])
    given = spec.model_dump(mode="json", exclude_defaults=True)
    given["backend"] = {"kind": spec.backend.kind, **given.get("backend", {})}
    return load_job(
        change_variants(given, escape_references),
        base_dir=Path(revision["base_dir"]),
        cards=cards_of(revision),
        scheduled_at=recorded_time(revision),
    ).under(revision["fingerprint_version"])


def _put_plan_files(store: Store, recorded: PlanSummary, plan: PlanSummary, folder: Path) -> None:
    if plan.prompts_digest != recorded.prompts_digest:
        raise StorageError(
            f"{store.url}: its plan is incomplete, and the prompts that it was made of have changed since "
            f"(restore {recorded.files[0].name}, or the prompts)"
        )
    if plan.inputs_digest != recorded.inputs_digest:
        raise StorageError(
            f"{store.url}: its plan is incomplete, and input images that it was made of have changed since "
            f"(restore {recorded.files[0].name}, or the images)"
        )
    if plan.files != recorded.files:
        raise StorageError(
            f"{store.url}: its plan is incomplete, and this spec cuts the same requests into other shards "
            "(run again with the execution settings of its run.json)"
        )
    for _ in map_in_flight(plan.files, lambda file: store.put_if_absent(file.name, folder / file.name)):
        pass


def _refuse(job: Job, store: Store, record: RunRecord, digest: str) -> NoReturn:
    """Refuse to mix two runs in one output.

    Raises:
        SpecError: always; the message lists what makes the difference.
    """
    own = job.fingerprint(digest)
    for revision, later in zip(record.revisions, record.revisions[1:], strict=False):
        if revision["fingerprint"] == own:
            raise SpecError(
                f"{output_of(job)} was extended since this spec, by that of {later['spec_path']} on "
                f"{later['created_at']} (run that one, choose another output.path, or --new-run)"
            )
    difference = describe_difference(record, job, digest)
    adds = _requests_to_add(job, store, record)
    extend = (
        "" if adds is None else f", or --extend, which keeps all {record.plan.requests:,} requests and adds {adds:,}"
    )
    nothing = (
        "" if count_rows(store, record.plan).succeeded else "; no row of it has succeeded, so its folder may be removed"
    )
    raise SpecError(
        f"{output_of(job)} holds another run, {record.data['name']} of {record.data['created_at']} ({difference}"
        f"{nothing}) (choose another output.path, or --new-run{extend})"
    )


def _requests_to_add(job: Job, store: Store, record: RunRecord) -> int | None:
    """How many requests extending would add; None where it is not possible."""
    with scratch_folder() as folder:
        try:
            return plan_extension(job, store, record, folder).requests
        except (SpecError, StorageError):
            return None
