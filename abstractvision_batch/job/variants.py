"""Variants: several ways (model, backend, parameters) in which one job makes the same prompts.

    values of the spec → those of each variant, as if it were a job of its own → each checked against its own card

A variant says what is different; everything else is the job's. It is merged as a spec over the one that it extends
(`extends`): key by key, `null` takes a key away, and a backend of another kind takes the place of the job's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, Positions, format_path, show
from abstractvision_batch.job.extends import merge_values
from abstractvision_batch.job.model import DEFAULT_BACKEND
from abstractvision_batch.text.suggestions import hint_for

VARIANTS = "variants"
#: What a variant may say, by section; of None, everything that the section of the job may.
VARIANT_FIELDS: Mapping[str, tuple[str, ...] | None] = {
    "model": None,
    "backend": None,
    "params": None,
    "matrix": None,
    "zip": None,
    "draw": None,
    "skip": None,
    "seeds": None,
    "samples_per_prompt": None,
    "prompts": ("template",),
    "execution": ("batch_size", "gpus_per_actor", "cpus_per_actor", "accelerator_type", "resources"),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class VariantPositions(Positions):
    """Places of a variant's fields: where it says them, else where the job does."""

    variant: str = ""
    own: Any = None
    """What the variant says."""
    job: Any = None
    """What the job says."""

    def place(self, path: FieldPath) -> FieldPath:
        """Return the path in the spec of what counts for the variant at a path."""
        return path if not says(self.own, path) and says(self.job, path) else (VARIANTS, self.variant, *path)

    def within(self, path: FieldPath) -> FieldPath | None:
        """Return the field that a path in the spec stands for; None where it stands for none of the variant."""
        if path[:1] != (VARIANTS,):
            return None if says(self.own, path) else path
        return path[2:] if path[1:2] == (self.variant,) else None

    def where(self, path: FieldPath) -> str:
        """Place of the field, or of its nearest parent that is written down."""
        return Positions.where(self, self.place(path))

    def problem(self, path: FieldPath, message: str) -> str:
        """One line: ``place: field: what``."""
        return f"{self.where(path)}: {format_path(self.place(path))}: {message}"


def place_variant(positions: Positions, name: str | None, data: Mapping[str, Any]) -> Positions:
    """Return the places of a variant's fields, by those of its job; they are those where it has no name."""
    if name is None:
        return positions
    own = next(own for key, own in data[VARIANTS].items() if key == name)
    return VariantPositions(
        positions.file, positions.root, positions.overrides, positions.bases, variant=name, own=own, job=data
    )


def split_variants(data: dict[str, Any]) -> tuple[dict[str | None, dict[str, Any]], dict[FieldPath, str]]:
    """Return the values of each variant's own job, and what is wrong with the mapping of variants itself.

    A job without variants is one without a name.
    """
    variants = data.get(VARIANTS)
    base = {key: value for key, value in data.items() if key != VARIANTS}
    if variants is None or variants == {}:
        return {None: base}, {}
    if not isinstance(variants, dict):
        return {None: base}, {
            (VARIANTS,): "has to be a mapping of names to what is different: {fast: {params: {steps: 8}}}"
        }
    problems: dict[FieldPath, str] = {}
    found: dict[str | None, dict[str, Any]] = {}
    for name, own in variants.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems[VARIANTS, str(name)] = (
                "is no name of a variant (up to 64 letters, digits, dots, dashes and underscores)"
            )
            continue
        problems |= dict(_find_foreign(name, {} if own is None else own))
        if not isinstance(own, dict | None):
            continue
        known = {key: value for key, value in (own or {}).items() if key in VARIANT_FIELDS}
        if isinstance(known.get("backend"), dict) and base.get("backend") is None:
            known["backend"] = {"kind": DEFAULT_BACKEND.kind, **known["backend"]}
        found[name] = merge_values(base, known)
    return found, problems


def _find_foreign(name: str, own: Any) -> Iterator[tuple[FieldPath, str]]:
    at: FieldPath = (VARIANTS, name)
    if not isinstance(own, dict):
        yield at, f"is {show(own)}; a variant is a mapping of what is different: {{params: {{steps: 8}}}}"
        return
    for key, value in own.items():
        if key not in VARIANT_FIELDS:
            hint = hint_for(str(key), VARIANT_FIELDS, f"it has: {', '.join(VARIANT_FIELDS)}; the rest is the job's")
            yield (*at, key), f"no field of a variant ({hint})"
        fields = VARIANT_FIELDS.get(key)
        if fields is None or not isinstance(value, dict):
            continue
        for field in value:
            if field not in fields:
                yield (*at, key, field), f"is of the whole job (a variant may have {', '.join(fields)} of {key})"


def change_variants(data: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a spec after a change of its fields, those of its variants too.

    What counts for a variant is changed with its job's values around it: its `backend.kind` may be the job's.
    """
    split, _ = split_variants(data)
    changed = change({key: value for key, value in data.items() if key != VARIANTS})
    if None in split:
        return changed
    own = {name: _again(data[VARIANTS][name], change(values)) for name, values in split.items() if name is not None}
    return {**changed, VARIANTS: {**data[VARIANTS], **own}}


def _again(said: Any, values: Any) -> Any:
    """Return of `values` what a variant says, where it says it."""
    if not isinstance(said, dict) or not isinstance(values, dict):
        return said if said is None else values
    return {key: _again(value, values.get(key, value)) for key, value in said.items()}


def name_models(variants: Iterable[tuple[str | None, str, str]]) -> str:
    """Return which models make a job's pictures, in a line; of each variant its name, model and kind of backend."""
    found = [(name, f"{model} · {kind}") for name, model, kind in variants]
    if found[0][0] is None:
        return found[0][1]
    return f"{len(found)} variants: " + ", ".join(f"{name} ({made})" for name, made in found)


def describe_variants(resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each variant says over the first, of whole jobs: so a spec of the first and this gives them again.

    The values are as they were given, without defaults; a key that only the first has is null.
    """
    first = next(iter(resolved.values()))
    return {
        name: {
            key: kept
            for key, fields in VARIANT_FIELDS.items()
            if (kept := _difference(_only(first.get(key), fields), _only(values.get(key), fields), key)) != {}
        }
        for name, values in resolved.items()
    }


def _only(section: Any, fields: tuple[str, ...] | None) -> Any:
    if fields is None or not isinstance(section, Mapping):
        return section
    return {name: value for name, value in section.items() if name in fields}


def _difference(first: Any, own: Any, key: str = "") -> Any:
    """What has to be said of `own`; all of it, so that it reads as a whole."""
    if not isinstance(own, Mapping):
        return {} if own is None and first is None else own
    if not isinstance(first, Mapping) or (key == "backend" and first.get("kind") != own.get("kind")):
        return dict(own)
    gone = {name: None for name in first if name not in own}
    said = {name: value for name, value in own.items() if not (value is None and first.get(name) is None)}
    return {**{name: _difference(first.get(name), value) for name, value in said.items()}, **gone}


def says(data: Any, path: FieldPath) -> bool:
    """Return whether values have something, which may be null, at a path."""
    for part in path:
        found = isinstance(data, Mapping) and part in data
        if not found and not (isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data)):
            return False
        data = data[part]
    return True
