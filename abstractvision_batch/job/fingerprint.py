"""Which fields of a spec change pixels, and the fingerprint of those that do.

*Identity* fields change pixels, or which requests there are; *runtime* fields do not. Every field of `JobSpec` is
marked as one of the two where it is declared (`marks`), and a test fails for one that is not.

The fingerprint hashes identity fields that differ from their defaults. So a new field leaves old fingerprints alone,
and writing a default out changes nothing; in return, changing the default or the meaning of an identity field takes a
new `FINGERPRINT_VERSION`, which a test demands. Prompts enter by the digest of their dataset, not by the path of it,
and the model's card, if given, by what requests take from it: parameter defaults and what its backend runs.

Not covered: weights (`run.json` records their revision and digest), versions of packages, the GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from abstractvision_batch.job.marks import Effect, Requests
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import leaves
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.registry.model_card import ModelCard

FINGERPRINT_VERSION = 2
"""To be raised when equal specs of two versions of this package would give other pixels or other requests.

A run is resumed, extended and verified under the version that it was planned with (`Job.under`). Version 2: the
seeds that `matrix` and `zip` list are used as they are; the cells of tables are typed, spaces around them are not part
of them, and a separator other than the comma is found; an empty negative prompt of a row says that there is none; an
inline list of file names is read as files.
"""

#: Fields whose value is a mapping to which forms may be added.
_LATER = frozenset({"draw", "prompts.grammar"})
#: What a card says of a backend for people or for scheduling.
_CARD_RUNTIME_KEYS = frozenset({"memory_bytes", "notes", "sources", "gated", "price", "output_size", "packages"})


def fingerprint(
    spec: JobSpec, *, prompts_digest: str, card: ModelCard | None = None, version: int = FINGERPRINT_VERSION
) -> str:
    """Hash of everything that changes pixels or requests, 64 hex digits; equal on every machine.

    Args:
        spec: a checked spec.
        prompts_digest: digest of the prompt dataset's bytes.
        card: the model's card; leave it out where only specs are compared.
        version: the fingerprint's version, an earlier one where the fingerprint of an old run is computed again.
    """
    identity = {
        "fingerprint_version": version,
        "spec": spec_identity(spec),
        "prompts": prompts_digest,
        "card": None if card is None else card_identity(card, spec),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def join_fingerprints(fingerprints: Iterable[str]) -> str:
    """Return the fingerprint of a job of variants with these fingerprints, in whatever order."""
    text = json.dumps({"variants": sorted(fingerprints)}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def spec_identity(spec: JobSpec) -> dict[str, Any]:
    """Identity fields that differ from their defaults, as JSON types under their dotted names."""
    differing = (leaf for leaf in leaves(JobSpec, spec) if leaf.effect is Effect.IDENTITY and not leaf.is_default)
    found = {leaf.name: _json_value(leaf.name, leaf.counted) for leaf in differing}
    if "output.image_format" not in found:  # a lossless one
        found.pop("output.jpeg_quality", None)
    return found


def backend_identity(spec: JobSpec) -> dict[str, Any]:
    """Identity part of the backend: its kind, and its identity fields that differ from their defaults.

    Not what requests choose from: each has what it chose in its own identity.
    """
    kind = spec.backend.kind
    prefix = f"backend.{kind}."
    chosen_from = {leaf.name for leaf in leaves(JobSpec) if leaf.mark(Requests) is not None}
    own = {
        name.removeprefix(prefix): value
        for name, value in spec_identity(spec).items()
        if name.startswith(prefix) and name not in chosen_from
    }
    return {"kind": kind, **own}


def model_identity(spec: JobSpec) -> str:
    """Return a short hash of the model, and of what the backend makes of it; of 12 hex digits."""
    identity = {"model": spec.model, "backend": backend_identity(spec)}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def card_identity(card: ModelCard, spec: JobSpec) -> dict[str, Any]:
    """What requests take from the card: parameter defaults of the task, and what the backend runs."""
    needs = card.backends.get(spec.backend.kind, {})
    return {
        "params": default_params(card, spec.task) if spec.task in card.tasks else {},
        "backend": {key: value for key, value in needs.items() if key not in _CARD_RUNTIME_KEYS},
    }


def leaf_values(spec: JobSpec, effect: Effect | None = None) -> dict[str, Any]:
    """Return the value of every field as JSON types, defaults written out, or of those with an effect."""
    return {
        leaf.name: _json_value(leaf.name, leaf.value) for leaf in leaves(JobSpec, spec) if effect in (None, leaf.effect)
    }


def _json_value(name: str, value: Any) -> Any:
    if name == "matrix":
        return [[param, [_number(param, item) for item in items]] for param, items in value.items()]
    if name == "zip":
        return {param: [_number(param, item) for item in items] for param, items in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=name in _LATER)
    if isinstance(value, tuple):
        return [_json_value("", item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value("", item) for key, item in value.items()}
    return value


def _number(param: str, value: Any) -> Any:
    """A matrix of an unchecked spec may hold 3 where 3.0 is meant."""
    return float(value) if param in ("guidance_scale", "strength") and isinstance(value, int) else value
