"""How a run begins: what it needs is checked, then it is new, resumed or extended.

    spec → checked; output → opened; nothing there → planned, recorded
                                     the same run there → resumed
                                     a smaller run there, and --extend → what it lacks planned, recorded

A record is written before the files of its plan, put-if-absent, and has their hashes. So two drivers agree on one run,
and files that a crash left out are written by the next invocation, whether it extends or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.backends.table import require_extra
from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.execute.canary import CANARY
from abstractvision_batch.execute.executors import require_executor
from abstractvision_batch.execute.ray.address import find_address
from abstractvision_batch.execute.run_server import SERVER
from abstractvision_batch.job.env import escape_references, resolve_options
from abstractvision_batch.job.load import LoadedSpec, load_spec, spec_from_mapping
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.plan.build import build_plan, prompts_digest
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.runs.artifact_names import ARTIFACTS
from abstractvision_batch.runs.counts import count_rows
from abstractvision_batch.runs.environment_files import ENVIRONMENTS
from abstractvision_batch.runs.manifest import list_parts
from abstractvision_batch.runs.plan_rows import hash_file
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import (
    RECORD,
    RunRecord,
    build_record,
    describe_difference,
    extend_record,
    read_record,
    recorded_time,
    require_same_layout,
    write_record,
)
from abstractvision_batch.runs.started import note_started, was_started_here
from abstractvision_batch.runs.weights import WEIGHTS, find_conflict
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.store import Store, open_store
from abstractvision_batch.verbs.extend import existing_plan, mark_superseded, plan_extension
from abstractvision_batch.verbs.model_check import check_model, check_server, check_weights, find_weights, placed

logger = logging.getLogger(__name__)


def load(
    spec: str | Path | Mapping[str, Any] | LoadedSpec,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    scheduled_at: datetime | None = None,
) -> LoadedSpec:
    """Load a spec, check it against its model's card, and check that what its backend imports is installed."""
    if isinstance(spec, LoadedSpec):
        loaded = spec
    elif isinstance(spec, Mapping):
        loaded = spec_from_mapping(
            dict(spec), overrides=overrides, registry_paths=registry_paths, scheduled_at=scheduled_at
        )
    else:
        loaded = load_spec(spec, overrides=overrides, registry_paths=registry_paths, scheduled_at=scheduled_at)
    with placed(loaded, "backend", "kind"):
        require_extra(loaded.spec.backend.kind)
    with placed(loaded, "execution", "executor"):
        require_executor(loaded.spec.execution.executor)
    if loaded.spec.execution.executor == "ray":
        find_address(loaded.spec.execution, place=loaded.positions.where(("execution", "address")))
    return loaded


def open_output(loaded: LoadedSpec) -> Store:
    """The store of the job's output.

    Raises:
        SpecError: nothing can be written there.
    """
    output = loaded.spec.output
    with placed(loaded, "output", "path"):
        store = open_store(output.path, resolve_options(output.storage_options, "output.storage_options"))
        store.check_writable()
    return store


def choose_output(loaded: LoadedSpec) -> LoadedSpec:
    """The spec with the first output, by number, that holds no run or this one.

    Raises:
        SpecError: nothing can be written there.
        StorageError: the outputs cannot be read.
    """
    weights = find_weights(loaded)
    path = loaded.spec.output.path.rstrip("/")
    for number in count(1):
        output = loaded.spec.output.model_copy(update={"path": path if number == 1 else f"{path}-{number}"})
        candidate = replace(loaded, spec=loaded.spec.model_copy(update={"output": output}))
        store = open_output(candidate)
        record = read_record(store)
        same = record is not None and record.layout == output.layout and _is_run_of(candidate, record)
        if record is None or (same and (weights is None or find_conflict(store, weights) is None)):
            return candidate
    raise AssertionError("unreachable")


def _is_run_of(loaded: LoadedSpec, record: RunRecord) -> bool:
    loaded = loaded.under(record.fingerprint_version)
    return record.fingerprint == loaded.fingerprint(prompts_digest(loaded))


def as_begun(loaded: LoadedSpec, record: RunRecord) -> LoadedSpec:
    """The spec as its run was begun: one of before there were dialects keeps to its request shape."""
    backend = loaded.spec.backend
    begun = record.revisions[0]["spec"]["backend"]
    if not isinstance(backend, OpenAIBackendSpec) or "dialect" in begun or backend.request_shape is not None:
        return loaded
    spec = loaded.spec.model_copy(update={"backend": backend.model_copy(update={"request_shape": "auto"})})
    return replace(loaded, spec=spec)


def check_time_limits(loaded: LoadedSpec) -> None:
    """Refuse time limits of requests and shards where nothing could end what hangs: in this process.

    Raises:
        SpecError: there are such.
    """
    if problems := _idle_time_limits(loaded):
        raise SpecError("\n".join(problems), problems=tuple(problems))


def _idle_time_limits(loaded: LoadedSpec) -> list[str]:
    execution = loaded.spec.execution
    given = [name for name in ("request_timeout_s", "shard_timeout_s") if getattr(execution, name) is not None]
    if execution.executor != "inline":
        return []
    return [
        f"{loaded.positions.where(('execution', name))}: execution.{name}: nothing can end what hangs in this process "
        "(execution.executor: ray has workers that can be ended; or leave it out)"
        for name in given
    ]


def start_run(loaded: LoadedSpec, store: Store, *, extend: bool = False) -> RunRecord:
    """Plan a new run and write its record and its plan, or find the same run there, or a smaller one to extend.

    Raises:
        SpecError: a prompt is wrong, the output holds another run, or extending it would do more than add.
        StorageError: the plan of the run there is incomplete, and cannot be completed.
    """
    record = read_record(store)
    if record is None:
        return _start_new_run(loaded, store)
    for problem in _idle_time_limits(loaded):
        logger.warning("%s", problem)  # a run that was begun with it goes on
    loaded = loaded.under(record.fingerprint_version)
    digest = prompts_digest(loaded)
    if record.fingerprint == loaded.fingerprint(digest):
        require_same_layout(record, loaded.spec, place=loaded.positions.where(("output", "layout")))
        check_weights(loaded, store)
        _complete_plan(record, store, loaded)
        if _is_of(record, loaded):
            note_started(store, record)
        return record
    if not extend:
        _refuse(loaded, store, record, digest)
    check_weights(loaded, store)
    _complete_plan(record, store)
    return _extend_run(loaded, store, record)


def _start_new_run(loaded: LoadedSpec, store: Store) -> RunRecord:
    check_time_limits(loaded)
    with scratch_folder() as folder:
        plan = build_plan(loaded, folder)
        check_model(loaded)
        check_server(loaded)
        with placed(loaded, "output", "path"):
            record = build_record(
                loaded.spec,
                spec_path=loaded.path,
                base_dir=loaded.base_dir,
                card=loaded.card,
                plan=plan,
                scheduled_at=loaded.scheduled_at,
                version=loaded.version,
                conditional_put=store.probe_conditional_put(),
            )
            record = write_record(store, record)
        if record.fingerprint != loaded.fingerprint(plan.prompts_digest):  # another driver was faster
            _refuse(loaded, store, record, plan.prompts_digest)
        require_same_layout(record, loaded.spec, place=loaded.positions.where(("output", "layout")))
        _put_plan_files(store, record.plans[0], plan, folder)
        if not record.revisions[0].get("conditional_put"):
            record = _require_own_run(loaded, store, plan, folder)
    note_started(store, record)
    return record


def _is_of(record: RunRecord, loaded: LoadedSpec) -> bool:
    """Whether a run that is there names nothing that the user's spec does not: then it is as good as started by it.

    Its plan may name other pictures, where the task takes any.
    """
    revision = record.revisions[-1]
    return (
        len(record.revisions) == 1
        and loaded.spec.task in ("text_to_image", "text_to_video")
        and revision["spec"] == loaded.spec.model_dump(mode="json")
        and revision["card"] == loaded.card.to_json()
        and revision["base_dir"] == str(loaded.base_dir.absolute())
    )


def _require_own_run(loaded: LoadedSpec, store: Store, plan: PlanSummary, folder: Path) -> RunRecord:
    """Look again, where a put replaces what another driver put in the same moment: the record that stayed decides.

    Raises:
        SpecError: it is another spec's.
    """
    record = read_record(store)
    if record is None:
        raise StorageError(f"{store.url}: its run.json vanished while the run started (run again)")
    if record.fingerprint != loaded.fingerprint(plan.prompts_digest):
        _refuse(loaded, store, record, plan.prompts_digest)
    _put_plan_files(store, record.plans[0], plan, folder)
    for file in plan.files:
        if hash_file(store.open, file.name) != file.sha256:  # the refused driver's
            store.put(file.name, folder / file.name)
    return record


def _extend_run(loaded: LoadedSpec, store: Store, record: RunRecord) -> RunRecord:
    """Record what the spec adds, and write the plan of it; the run as it was where that is nothing."""
    with scratch_folder() as folder:
        added = plan_extension(loaded, store, record, folder)
        if not added.requests:
            return record
        check_model(loaded)
        known = was_started_here(store, record)
        extended = extend_record(
            record,
            loaded.spec,
            spec_path=loaded.path,
            base_dir=loaded.base_dir,
            card=loaded.card,
            added=added,
            scheduled_at=loaded.scheduled_at,
            version=loaded.version,
        )
        found = write_record(store, extended)
        if found.fingerprint != extended.fingerprint:
            raise SpecError(
                f"{_output(loaded)} was extended by another driver meanwhile, with another spec "
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
    for name in (*environments, CANARY, SERVER, WEIGHTS, *(file.name for file in found.plan.files), RECORD):
        store.delete(name)
    logger.warning("%s: nothing was generated, so the run that was begun there is taken back", store.url)


def _complete_plan(record: RunRecord, store: Store, loaded: LoadedSpec | None = None) -> None:
    """Write files of the plan that a crash left out; `loaded` is the newest of the run's specs."""
    for number, (revision, planned) in enumerate(zip(record.revisions, record.plans, strict=True)):
        if not _absent_files(store, planned):
            continue
        spec = loaded if number == len(record.revisions) - 1 else None
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


def _recorded_spec(revision: Mapping[str, Any]) -> LoadedSpec:
    """The spec of a revision, as if it were given again: a plan differs by whether a default was written out."""
    spec = JobSpec.model_validate(revision["spec"])
    given = spec.model_dump(mode="json", exclude_defaults=True)
    given["backend"] = {"kind": spec.backend.kind, **given.get("backend", {})}
    return spec_from_mapping(
        escape_references(given),
        base_dir=Path(revision["base_dir"]),
        card=ModelCard.from_json(revision["card"]),
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


def _refuse(loaded: LoadedSpec, store: Store, record: RunRecord, digest: str) -> NoReturn:
    """Refuse to mix two runs in one output.

    Raises:
        SpecError: always; the message lists what makes the difference.
    """
    own = loaded.fingerprint(digest)
    for revision, later in zip(record.revisions, record.revisions[1:], strict=False):
        if revision["fingerprint"] == own:
            raise SpecError(
                f"{_output(loaded)} was extended since this spec, by that of {later['spec_path']} on "
                f"{later['created_at']} (run that one, choose another output.path, or --new-run)"
            )
    difference = describe_difference(record, loaded.spec, prompts_digest=digest, card=loaded.card)
    adds = _requests_to_add(loaded, store, record)
    extend = (
        "" if adds is None else f", or --extend, which keeps all {record.plan.requests:,} requests and adds {adds:,}"
    )
    nothing = (
        "" if count_rows(store, record.plan).succeeded else "; no row of it has succeeded, so its folder may be removed"
    )
    raise SpecError(
        f"{_output(loaded)} holds another run, {record.data['name']} of {record.data['created_at']} ({difference}"
        f"{nothing}) (choose another output.path, or --new-run{extend})"
    )


def _requests_to_add(loaded: LoadedSpec, store: Store, record: RunRecord) -> int | None:
    """How many requests extending would add; None where it is not possible."""
    with scratch_folder() as folder:
        try:
            return plan_extension(loaded, store, record, folder).requests
        except (SpecError, StorageError):
            return None


def _output(loaded: LoadedSpec) -> str:
    return f"{loaded.positions.where(('output', 'path'))}: output.path: {loaded.spec.output.path}"
