"""`run.json`: what a run is. Written once, put-if-absent, so that two drivers of one output agree on one run.

It holds the resolved spec, its fingerprint, the model's card, the parameters that follow from both, the plan's files
with their hashes, the weights where the driver sees them, and the software that planned it; secrets stay names of
environment variables. What only workers know lies beside it (`environment_files`, `run_weights`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.weights import Weights
from abstractvision_batch.errors import SpecError, StorageError
from abstractvision_batch.execute.environment import describe_driver
from abstractvision_batch.plan.expand import base_params, extra_params
from abstractvision_batch.plan.summary import PlanSummary
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.spec.identity import FINGERPRINT_VERSION, fingerprint, spec_identity
from abstractvision_batch.spec.model import JobSpec
from abstractvision_batch.storage.store import Store

RECORD = "run.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The parsed `run.json`; `data` is all of it."""

    data: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes pixels."""
        return str(self.data["fingerprint"])

    @property
    def plan(self) -> PlanSummary:
        """The plan's counts and files."""
        return PlanSummary.from_json(self.data["plan"])

    @property
    def spec(self) -> JobSpec:
        """The resolved job spec."""
        return JobSpec.model_validate(self.data["spec"])

    @property
    def layout(self) -> str:
        """How its files lie in the store: the spec's `output.layout`."""
        return str(self.data["spec"]["output"].get("layout", "files"))

    @property
    def base_dir(self) -> Path:
        """Where relative paths of the spec start, on the host that started the run."""
        return Path(self.data.get("base_dir", "."))

    @property
    def weights(self) -> Weights | None:
        """The files that the driver saw; None where only the workers know (`run_weights`), or there are none."""
        data = self.data.get("weights")
        return None if data is None else Weights.from_json(data)

    @property
    def card(self) -> ModelCard:
        """The model's card as it was."""
        return ModelCard.from_json(self.data["card"])


def build_record(
    spec: JobSpec,
    *,
    spec_path: str,
    base_dir: Path,
    card: ModelCard,
    plan: PlanSummary,
    conditional_put: bool | None,
    weights: Weights | None,
) -> RunRecord:
    """The record of a new run."""
    data = {
        "format": FORMAT,
        "run_id": uuid.uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": spec.name,
        "fingerprint": fingerprint(spec, prompts_digest=plan.prompts_digest, card=card),
        "fingerprint_version": FINGERPRINT_VERSION,
        "spec_path": spec_path,
        "base_dir": str(base_dir.absolute()),
        "spec": spec.model_dump(mode="json"),
        "card": card.to_json(),
        "params": {**base_params(spec, card), "extra": extra_params(spec, card)},
        "plan": plan.to_json(),
        "conditional_put": conditional_put,
        "weights": None if weights is None else weights.to_json(),
        "environment": describe_driver(),
    }
    return RunRecord(data)


def read_record(store: Store) -> RunRecord | None:
    """The run that lives in the store; None where there is none.

    Raises:
        StorageError: there is a `run.json`, but not one of ours.
    """
    if not store.exists(RECORD):
        return None
    where = store.url_of(RECORD)
    try:
        data = json.loads(store.read(RECORD))
    except ValueError as exc:
        raise StorageError(f"{where}: not JSON ({exc}); choose another output or remove it") from exc
    if not isinstance(data, dict) or "fingerprint" not in data or "plan" not in data:
        raise StorageError(f"{where}: not a run of avbatch; choose another output or remove it")
    if data.get("format") != FORMAT:
        raise StorageError(
            f"{where}: format {data.get('format')}, this version reads {FORMAT} (use the version it names)"
        )
    return RunRecord(data)


def write_record(store: Store, record: RunRecord) -> RunRecord:
    """Put the record if there is none; the one that is there now."""
    data = json.dumps(record.data, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    if store.put_if_absent(RECORD, data):
        return record
    found = read_record(store)
    if found is None:
        raise StorageError(f"{store.url_of(RECORD)}: appeared and vanished while the run started")
    return found


def require_same_run(found: RunRecord, spec: JobSpec, *, prompts_digest: str, card: ModelCard, location: str) -> None:
    """Refuse to mix two runs in one output.

    Raises:
        SpecError: the output holds a run whose pixels would differ; the message lists what does.
    """
    if found.fingerprint == fingerprint(spec, prompts_digest=prompts_digest, card=card):
        return
    differing = list(differing_fields(found, spec, prompts_digest)) or [f"the card of {card.id}"]
    shown = "; ".join(differing[:5]) + (f"; {len(differing) - 5} more" if len(differing) > 5 else "")
    raise SpecError(
        f"{location}: output.path: {spec.output.path} holds another run, {found.data['name']} of "
        f"{found.data['created_at']} ({shown}) (choose another output.path, or --new-run)"
    )


def require_same_layout(found: RunRecord, spec: JobSpec, *, place: str) -> None:
    """Refuse to write one run in two layouts.

    Raises:
        SpecError: the spec has another one than the run.
    """
    if found.layout != spec.output.layout:
        raise SpecError(
            f"{place}: output.layout: the run in {spec.output.path} is laid out as {found.layout}, "
            f"not {spec.output.layout} (leave it {found.layout}, or choose another output.path, or --new-run)"
        )


def differing_fields(found: RunRecord, spec: JobSpec, plan_digest: str) -> Iterator[str]:
    """What of a spec makes another run of it, for people."""
    there, here = spec_identity(found.spec), spec_identity(spec)
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            yield f"{name}: {_shown(there, name)} there, {_shown(here, name)} here"
    if found.plan.prompts_digest != plan_digest:
        yield "the prompt dataset's content"


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else "the default"
