"""`run.json`: what a run is. Written once, put-if-absent, so that two drivers of one output agree on one run.

It holds the resolved spec, its fingerprint, the model's card, the parameters that follow from both, the plan's files
with their hashes, and the software that planned it; secrets stay names of environment variables. What only workers
know lies beside it (`environment_files`, `weights`).

A run that was extended has `extensions/00001.json` and so on as well, each written in the same way and of the same
kind: the spec as it was from then on, and the files that were added to the plan. What the run is now is all of them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.job.fingerprint import spec_identity
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.points import base_params, extra_params
from abstractvision_batch.job.scheduled_time import timezone_name
from abstractvision_batch.job.variants import name_models, split_variants
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.runs.environment import describe_driver
from abstractvision_batch.runs.files import EXECUTOR, EXTENSIONS, RECORD
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.record_schema import (
    MAX_REQUESTS,
    MAX_SHARDS,
    describe_violation,
    find_violation,
    newer_version,
)
from abstractvision_batch.storage.json_file import read_json
from abstractvision_batch.storage.store import Store
from abstractvision_batch.text.redaction import with_kept_urls

EXTENSION_NAME = re.compile(r"^([0-9]{5,9})\.json$")
FORMAT = 2


#: What an extension says anew of its run.
_RENEWED = (
    "name",
    "fingerprint",
    "fingerprint_version",
    "spec_path",
    "base_dir",
    "spec",
    "card",
    "params",
    "cards",
    "variants",
)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is now: its `run.json`, and what its extensions made of it."""

    revisions: tuple[Mapping[str, Any], ...]
    """The parsed `run.json` and extensions, oldest first; the plan of an extension is what it added."""

    @property
    def data(self) -> dict[str, Any]:
        """`run.json` as it would be of the run as it is now, and `extensions`: when, and how many requests."""
        first, newest = self.revisions[0], self.revisions[-1]
        extensions = [
            {"created_at": extension["created_at"], "requests": extension["plan"]["requests"]}
            for extension in self.revisions[1:]
        ]
        renewed = {name: newest[name] for name in _RENEWED if name in newest}
        return {**first, **renewed, "plan": self.plan.to_json(), "extensions": extensions}

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes pixels."""
        return str(self.revisions[-1]["fingerprint"])

    @property
    def fingerprint_version(self) -> int:
        """Return the version of the fingerprint, by whose rules the run is planned."""
        return int(self.revisions[-1]["fingerprint_version"])

    @property
    def plan(self) -> PlanSummary:
        """The plan's counts and files."""
        return self.plan_of(len(self.revisions))

    @property
    def plans(self) -> tuple[PlanSummary, ...]:
        """The plan of `run.json`, and what each extension added to it."""
        return tuple(PlanSummary.from_json(revision["plan"]) for revision in self.revisions)

    def plan_of(self, revisions: int) -> PlanSummary:
        """The plan as it was of so many revisions."""
        plan, *added = self.plans[:revisions]
        for extension in added:
            plan = plan.extended_by(extension)
        return plan

    @property
    def spec(self) -> JobSpec:
        """The resolved job spec."""
        return JobSpec.from_record(self.revisions[-1]["spec"])  # checked when it was read

    @property
    def specs(self) -> dict[str | None, JobSpec]:
        """The resolved spec of each variant by its name, as if it were a job of its own; of None where it has none."""
        values, _ = split_variants(dict(self.revisions[-1]["spec"]))
        return {name: JobSpec.from_record(own) for name, own in values.items()}

    @property
    def scheduled_at(self) -> datetime | None:
        """The scheduled time of its spec, in the timezone of the schedule."""
        return recorded_time(self.revisions[-1])

    @property
    def layout(self) -> str:
        """How its files lie in the store: the spec's `output.layout`."""
        return str(self.revisions[-1]["spec"]["output"].get("layout", "files"))

    @property
    def base_dir(self) -> Path:
        """Where relative paths of the spec start, on the host that started or extended the run."""
        return Path(self.revisions[-1]["base_dir"])

    @property
    def card(self) -> ModelCard:
        """The model's card as it was."""
        return ModelCard.from_json(self.revisions[-1]["card"])

    @property
    def cards(self) -> dict[str, ModelCard]:
        """The cards of its models as they were, by id; variants may have several."""
        return cards_of(self.revisions[-1])

    @property
    def variants(self) -> tuple[Mapping[str, Any], ...]:
        """What is recorded of each variant: `name`, `model`, `backend`, `settings` (their hash), `folder`, `params`."""
        return tuple(self.revisions[-1].get("variants", ()))

    @property
    def made_by(self) -> str:
        """The models that make its pictures, each with its backend, in a line."""
        spec = self.revisions[-1]["spec"]
        own = [(variant["name"], variant["model"], variant["backend"]) for variant in self.variants]
        return name_models(own or [(None, spec["model"], spec["backend"]["kind"])])

    @property
    def model_folders(self) -> tuple[str, ...]:
        """The folders of the run that say what is known of its models."""
        return tuple(dict.fromkeys(variant["folder"] for variant in self.variants)) or ("",)


def build_record(
    job: Job,
    plan: PlanSummary,
    *,
    conditional_put: bool | None,
    executor: Mapping[str, str] | None = None,
    spec_path: str | None = None,
) -> RunRecord:
    """The record of a new run; `executor` says what is to run its shards, and why."""
    first = {
        "run_id": uuid.uuid4().hex,
        "conditional_put": conditional_put,
        **({} if executor is None else {"executor": dict(executor)}),
    }
    return RunRecord(({**first, **_describe_generation(job, plan, spec_path)},))


def extend_record(record: RunRecord, job: Job, added: PlanSummary) -> RunRecord:
    """The record of a run as it is once it has been extended; `added` is what its plan gains."""
    first = {"run_id": record.revisions[0]["run_id"], "extends": record.fingerprint}
    return RunRecord((*record.revisions, {**first, **_describe_generation(job, added)}))


def _describe_generation(job: Job, plan: PlanSummary, spec_path: str | None = None) -> dict[str, Any]:
    time = job.scheduled_at
    described = {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scheduled_at": None if time is None else time.isoformat(),
        "timezone": None if time is None else timezone_name(time),
        "name": job.spec.name,
        "fingerprint": job.fingerprint(plan.prompts_digest),
        "fingerprint_version": job.version,
        "spec_path": spec_path or job.path,
        "base_dir": str(job.base_dir.absolute()),
        "spec": _recorded(job.spec),
        "card": job.card.to_json(),
        "params": _params(job),
        "plan": plan.to_json(),
        "environment": describe_driver(),
    }
    if job.parts:
        described["cards"] = {part.card.id: part.card.to_json() for part in job.parts}
        described["variants"] = [
            {
                "name": part.variant,
                "model": part.spec.model,
                "backend": part.spec.backend.kind,
                "settings": part.fingerprint(""),
                "folder": part.model_folder,
                "params": _params(part),
            }
            for part in job.parts
        ]
    return described


def _params(job: Job) -> dict[str, Any]:
    return {**base_params(job.spec, job.card), "extra": extra_params(job.spec, job.card)}


def _recorded(spec: JobSpec) -> dict[str, Any]:
    """The spec as it is kept: its prompts may be at a URL that gives access, which is used and not kept."""
    data = spec.model_dump(mode="json")
    data["prompts"]["source"] = with_kept_urls(data["prompts"]["source"])
    return data


def cards_of(revision: Mapping[str, Any]) -> dict[str, ModelCard]:
    """The model cards of a revision, by id."""
    cards = [ModelCard.from_json(card) for card in (revision["card"], *revision.get("cards", {}).values())]
    return {card.id: card for card in cards}


def recorded_time(revision: Mapping[str, Any]) -> datetime | None:
    """The scheduled time of a revision; older ones have none."""
    text, name = revision.get("scheduled_at"), revision.get("timezone")
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if name is None else time.astimezone(ZoneInfo(name))


def read_record(store: Store) -> RunRecord | None:
    """The run that lives in the store, with its extensions; None where there is none.

    Raises:
        StorageError: there is a `run.json`, but not one of ours; or an extension is not of this run, or is missing.
    """
    numbers = sorted(int(match[1]) for name in store.list(EXTENSIONS) if (match := EXTENSION_NAME.match(name)))
    if not store.exists(RECORD):
        if numbers:
            name = extension_name(numbers[0])
            raise StorageError(f"{store.url_of(name)}: extends a run whose {RECORD} is gone (restore it)")
        return None
    revisions = [_read_revision(store, RECORD)]
    for number in range(1, max(numbers, default=0) + 1):
        name = extension_name(number)
        if number not in numbers:
            raise StorageError(f"{store.url_of(name)}: is not there, and there are later ones (restore it)")
        extension, before = _read_revision(store, name), revisions[-1]
        if (extension["run_id"], extension.get("extends")) != (before["run_id"], before["fingerprint"]):
            raise StorageError(
                f"{store.url_of(name)}: extends another run than the {RECORD} there (remove one of both)"
            )
        revisions.append(extension)
    _require_one_plan(store, revisions)
    return RunRecord(tuple(revisions))


def _require_one_plan(store: Store, revisions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse plans whose shards do not follow each other, or whose files share a name."""
    shards, requests, names = 0, 0, set[str]()
    for number, revision in enumerate(revisions):
        plan = PlanSummary.from_json(revision["plan"])
        own = {file.name for file in plan.files}
        shards, requests = shards + plan.shards, requests + plan.requests
        fits = not plan.files or plan.files[0].first_shard == shards - plan.shards
        if not fits or names & own or shards > MAX_SHARDS or requests > MAX_REQUESTS:
            where = store.url_of(extension_name(number) if number else RECORD)
            raise StorageError(f"{where}: damaged: its plan does not follow the one before it (restore it)")
        names |= own


def _read_revision(store: Store, name: str) -> dict[str, Any]:
    where = store.url_of(name)
    data = read_json(store, name, hint="choose another output or remove it")
    if not isinstance(data, dict) or "fingerprint" not in data or "plan" not in data:
        raise StorageError(f"{where}: not a run of avbatch; choose another output or remove it")
    found = data.get("format")
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        said = f"written by a newer avbatch, in format {found}" if newer else f"format {str(found)[:40]}"
        raise StorageError(f"{where}: {said}, and this version reads {FORMAT} (use the version it names)")
    if violation := find_violation(data) or _find_spec_violation(data):
        raise StorageError(f"{where}: damaged: {violation} (restore it, or choose another output)")
    return data


def _find_spec_violation(data: Mapping[str, Any]) -> str | None:
    try:
        spec = JobSpec.from_record(data["spec"])
    except ValidationError as exc:
        return f"spec.{describe_violation(exc)}{newer_version(data)}"
    if spec.model != data["card"]["id"] or spec.task not in data["card"]["tasks"]:
        return f"card: not that of {spec.task} with {spec.model}"
    if {*spec.variants} != {variant["name"] for variant in data.get("variants", ())}:
        return "variants: not those of its spec"
    for variant in data.get("variants", ()):
        if variant["model"] not in {spec.model, *data.get("cards", {})}:
            return f"cards: none of variant {variant['name']}"
    return None


def extension_name(number: int) -> str:
    """Name of a run's first, second, ... extension."""
    return f"{EXTENSIONS}/{number:05d}.json"


def write_record(store: Store, record: RunRecord) -> RunRecord:
    """Put the newest revision of the record if there is none of its number; the record that is there now.

    Where the store may ignore the condition, what was put may have been replaced already, so it is read again.
    """
    number = len(record.revisions) - 1
    name = extension_name(number) if number else RECORD
    data = json.dumps(record.revisions[-1], indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    if store.put_if_absent(name, data) and record.revisions[0].get("conditional_put"):
        return record
    found = read_record(store)
    if found is None:
        raise StorageError(f"{store.url_of(RECORD)}: appeared and vanished while the run started")
    return found


def note_executor(store: Store, executor: Mapping[str, str]) -> None:
    """Write next to `run.json` what runs the shards this time, unless the run was begun on that."""
    begun = read_json(store, RECORD, hint="restore it")
    there = begun.get("executor") or begun["spec"]["execution"]
    if there["executor"] != executor["executor"]:
        store.put(EXECUTOR, json.dumps(executor, indent=2).encode() + b"\n")


def require_same_layout(found: RunRecord, spec: JobSpec, *, place: str) -> None:
    """Refuse to write one run in two layouts.

    Raises:
        SpecError: the spec has another one than the run.
    """
    if found.layout != spec.output.layout:
        raise SpecError(
            f"{place}: the run in {spec.output.path} is laid out as {found.layout}, "
            f"not {spec.output.layout} (leave it {found.layout}, or choose another output.path, or --new-run)"
        )


def describe_difference(found: RunRecord, job: Job, prompts_digest: str) -> str:
    """What of a spec makes another run of it, for people, in a few words."""
    differing = [said for _, said in differing_fields(found, job)]
    there, here = ({*specs} for specs in (found.specs, {variant.variant: 0 for variant in job.variants}))
    if there != here:
        differing.append(f"variants: {_names(there)} there, {_names(here)} here")
    if found.plan.prompts_digest != prompts_digest:
        differing.append("the prompt dataset's content")
    if not differing:
        differing.append(f"the card of {', '.join(sorted({part.card.id for part in job.variants}))}")
    return "; ".join(differing[:5]) + (f"; {len(differing) - 5} more" if len(differing) > 5 else "")


def differing_fields(found: RunRecord, job: Job) -> Iterator[tuple[str, str]]:
    """Yield the identity fields whose value is another one, each with both values, for people.

    Of variants, those that both have are compared.
    """
    recorded = found.specs
    for variant in job.variants:
        if variant.variant not in recorded:
            continue
        there, here = spec_identity(recorded[variant.variant]), spec_identity(variant.spec)
        of = "" if variant.variant is None else f"variant {variant.variant}: "
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                yield name, f"{of}{name}: {_shown(there, name)} there, {_shown(here, name)} here"


def _names(variants: Iterable[str | None]) -> str:
    return ", ".join(sorted(name for name in variants if name is not None)) or "none"


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "the default"
