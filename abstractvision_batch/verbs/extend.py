"""`avbatch run --extend`: what a spec that grew adds to the run in its output, and whether it only adds.

    new spec → requests → those that the recorded plan lacks → further batches, shards and files of the plan

What is there stays as it is: rows, files, batches, shards. So every request there must be one of the new spec too, but
for those that did not succeed: a request of the same prompt id, sample and matrix point takes the place of such a one.
What determines pixels beyond the request itself (image format, batch size, what the backend runs) must be the same.
A run that an earlier version started keeps the format of its plan: input pictures go on as they did in it.

Not covered: writing it (`start`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fingerprint import card_identity
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.marks import Requests
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.points import find_axes
from abstractvision_batch.job.walk import leaves
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.plan.existing import ExistingPlan
from abstractvision_batch.plan.supersede import supersede
from abstractvision_batch.runs.columns import FAILED, NOT_RUN, VARIANT
from abstractvision_batch.runs.manifest import iter_rows as iter_manifest_rows
from abstractvision_batch.runs.plan_rows import SUPERSEDES, superseded_ids
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record import RunRecord, describe_difference, differing_fields
from abstractvision_batch.storage.store import Store


def plan_extension(job: Job, store: Store, record: RunRecord, folder: Path) -> PlanSummary:
    """Plan what a spec adds to a run, which may be nothing, and write that plan into a local folder.

    Raises:
        SpecError: it does more than add, or a prompt is wrong.
        StorageError: the run's plan cannot be read.
    """
    job = job.under(record.fingerprint_version)
    if bool(job.parts) != bool(record.variants):
        has, there = ("has", "none") if job.parts else ("has no", "some")
        raise SpecError(
            f"{job.at('variants') if job.parts else output_of(job)}: --extend only adds variants to variants, and this "
            f"spec {has} variants where the run there has {there} (--new-run: request ids and seeds are the same, so "
            "avbatch diff pairs the pictures of both)"
        )
    _require_same_settings(job, record)
    existing = existing_plan(store, record.plan)
    added = build_plan(job, folder, existing, format=record.plan.format)
    missing, row = _count_kept(store, record.plan, existing)
    if row is not None:
        difference = describe_difference(record, job, added.prompts_digest)
        moved = added.prompts_digest != record.plan.prompts_digest
        hint = "; without an id column a prompt's id is its row number: add prompts at the end" if moved else ""
        raise SpecError(
            f"{output_of(job)}: --extend only adds, and this spec lacks {missing:,} of the {record.plan.requests:,} "
            f"requests there, as sample {row['sample_index']} of prompt {row['prompt_id']!r}, {_short(row['prompt'])} "
            f"({difference}) (keep what is there, or --new-run{hint})"
        )
    _require_fitting_columns(job, record, added)
    return mark_superseded(job, folder, existing, added) if existing.missing else added


def existing_plan(store: Store, plan: PlanSummary) -> ExistingPlan:
    """The plan that an extension adds to; requests whose place others took need not be in a spec any more."""
    existing = ExistingPlan(store.open, plan)
    existing.disregard(superseded_ids(store.open, plan))
    return existing


def mark_superseded(job: Job, folder: Path, existing: ExistingPlan, added: PlanSummary) -> PlanSummary:
    """Note in an extension's plan which requests take the place of those that its spec lacks.

    Raises:
        SpecError: the prompts have a column of the name that this takes.
    """
    axes = set[str]().union(*map(find_axes, job.specs)) | ({VARIANT} if job.parts else set())
    taken = [name for name, _ in (*existing.summary.columns, *added.columns) if name.casefold() == SUPERSEDES]
    if taken and not existing.summary.superseding:
        raise SpecError(
            f"{job.at('prompts.source')}: column {taken[0]!r} has the name that says which failed request another "
            f"one replaces (rename: {{{taken[0]}: another name}}, or --new-run)"
        )
    return supersede(folder, added, existing.missing_rows(), axes)


def _count_kept(store: Store, plan: PlanSummary, existing: ExistingPlan) -> tuple[int, dict[str, Any] | None]:
    """Requests there that a spec lacks and that nothing can replace, and the first: they succeeded, or may yet."""
    if not existing.missing:
        return 0, None
    open_ended: set[str] = set()
    for table in iter_manifest_rows(store, ["request_id", "status"]):
        open_ended.update(table.filter(pc.field("status").isin([FAILED, NOT_RUN]))["request_id"].to_pylist())
    kept = 0
    first: dict[str, Any] | None = None
    for row in existing.missing_rows():
        if row["request_id"] not in open_ended:
            kept += 1
            first = first or row
    return kept, first


def _require_same_settings(job: Job, record: RunRecord) -> None:
    found = list(_differing_settings(job, record))
    if found:
        raise SpecError(
            f"{output_of(job)}: --extend only adds, and this spec changes what made the requests there "
            f"({'; '.join(found)}) (leave that as it is, or --new-run)"
        )


def _differing_settings(job: Job, record: RunRecord) -> Iterator[str]:
    # Whether these only add is told by the requests' ids.
    specs = (*record.specs.values(), *job.specs)
    of_requests = {leaf.name for spec in specs for leaf in leaves(JobSpec, spec) if leaf.mark(Requests) is not None}
    for name, said in differing_fields(record, job):
        if name not in of_requests:
            yield said
    if record.plan.format == 1 and job.spec.prompts.fit in ("crop", "pad"):
        yield f"prompts.fit: input pictures are stretched there, by an earlier version, not {job.spec.prompts.fit}"
    if record.layout != job.spec.output.layout:
        yield f"output.layout: {record.layout} there, {job.spec.output.layout} here"
    recorded, cards = record.specs, record.cards
    for variant in job.variants:
        spec = recorded.get(variant.variant)
        if spec is None:
            continue
        card = cards.get(spec.model)
        if card is None or card_identity(card, spec)["backend"] != card_identity(variant.card, variant.spec)["backend"]:
            yield f"what the card of {variant.card.id} says of the backend"


def _require_fitting_columns(job: Job, record: RunRecord, added: PlanSummary) -> None:
    """Whether the prompt dataset's own columns can be columns of one manifest."""
    there, here = dict(record.plan.columns), dict(added.columns)
    if record.plan.superseding:
        there.pop(SUPERSEDES, None)
    if record.layout == "parquet" and added.requests and there != here:
        differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        shown = ", ".join(
            f"{name} ({there.get(name, 'none')} there, {here.get(name, 'none')} here)" for name in differing
        )
        raise SpecError(
            f"{job.at('prompts.source')}: the files of the layout parquet have the columns of the prompts, and these "
            f"are not those of the run there: {shown} (leave them as they were, with prompts.drop or "
            "rename, or --new-run)"
        )
    known = {name.casefold(): name for name in there}
    for name in here:
        if known.get(name.casefold(), name) != name:
            raise SpecError(
                f"{job.at('prompts.source')}: column {name!r} differs by case only from {known[name.casefold()]!r} of "
                f"the run there (rename: {{{name}: {known[name.casefold()]}}}, or drop it)"
            )


def output_of(job: Job) -> str:
    """Return the place of `output.path` and what it says, as a message begins."""
    return f"{job.at('output.path')}: {job.spec.output.path}"


def _short(prompt: str) -> str:
    text = " ".join(prompt.split())
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
