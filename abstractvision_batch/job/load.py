"""Loads a job spec: reads the YAML, applies overrides, checks everything and reports all violations at once.

    text → values with places (`documents.yaml_reader`) → `--set` (`overrides`) → `{{ scheduled_at }}` (`time_fields`)
         → `${NAME}` (`env`) → `JobSpec` → card (`check`)

A field that is wrong has a stand-in while the rest is checked further (`placeholders`), so that one run of the command
names every mistake. Not covered: the prompt dataset (the plan reads it).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from abstractvision_batch.documents.positions import FieldPath, Positions, broken_paths, format_path, plain_value, show
from abstractvision_batch.documents.yaml_reader import (
    INT_LIMIT,
    MAX_DEPTH,
    MAX_PROBLEMS,
    MAX_VALUES,
    read_file,
    read_yaml,
    require_storable,
)
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.check import check_spec
from abstractvision_batch.job.env import interpolate
from abstractvision_batch.job.fingerprint import FINGERPRINT_VERSION, fingerprint
from abstractvision_batch.job.marks import LocalPath
from abstractvision_batch.job.model import BackendSpec, JobSpec
from abstractvision_batch.job.overrides import apply_overrides
from abstractvision_batch.job.placeholders import validate_with_stand_ins
from abstractvision_batch.job.secrets import find_plain_secrets
from abstractvision_batch.job.time_fields import find_untimed, render_time_fields
from abstractvision_batch.job.walk import FieldValue, find_parts, put_value
from abstractvision_batch.registry.cards import ModelCard, load_cards


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A job spec that passed every check, with where it came from and its model's card."""

    spec: JobSpec
    path: str
    """The file as it was named, or `<spec>` for a mapping."""
    base_dir: Path
    """Where relative `prompts.source`, `registry.paths`, `backend.model_path` and LoRA sources start."""
    card: ModelCard
    positions: Positions
    scheduled_at: datetime | None = None
    """The scheduled time that its time fields were replaced for; its timezone is that of the schedule."""
    version: int = FINGERPRINT_VERSION
    """The fingerprint's version, which says by which rules it is planned: that of its run, where there is one."""

    def under(self, version: int) -> LoadedSpec:
        """Return the spec as it is planned by the rules of a version."""
        return self if version == self.version else replace(self, version=version)

    def fingerprint(self, prompts_digest: str) -> str:
        """Return the fingerprint of the job with these prompts."""
        return fingerprint(self.spec, prompts_digest=prompts_digest, card=self.card, version=self.version)

    def local_path(self, text: str) -> str:
        """A path of the spec made absolute; a URL, or an absolute path, stays as it is."""
        return _local_path(self.base_dir, text)

    @property
    def backend(self) -> BackendSpec:
        """The backend with local paths made absolute: what `create_backend` takes."""
        backend = self.spec.backend
        for part, mark in self.model_paths():
            path = self.local_path(part.value)
            if not mark.or_hub_id or Path(path).exists():
                backend = put_value(backend, part.path[1:], path)
        return backend

    def model_paths(self) -> Iterator[tuple[FieldValue, LocalPath]]:
        """Yield the paths that the backend's fields hold, as they are written, with their marks."""
        for part in find_parts(type(self.spec.backend), self.spec.backend, LocalPath, ("backend",)):
            if (mark := part.mark(LocalPath)) is not None and isinstance(part.value, str):
                yield part, mark


def load_spec(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    scheduled_at: datetime | None = None,
) -> LoadedSpec:
    """Loads and checks a spec file.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value` each, applied in order before anything is checked.
        registry_paths: more card files or folders, relative to the current folder; they win over the spec's own.
        scheduled_at: what its time fields stand for, with the timezone that they are of.

    Raises:
        SpecError: anything is wrong; `problems` has one `file:line:column: field: what (what would do)` line each.
    """
    read = read_values(path, overrides)
    return _check_all(
        read.data,
        read.positions,
        Path(path).expanduser().parent,
        registry_paths,
        read.problems,
        read.broken,
        scheduled_at=scheduled_at,
    )


@dataclass(frozen=True, slots=True)
class ReadValues:
    """The values of a spec file as they stand there, overridden but not checked."""

    data: dict[str, Any]
    positions: Positions
    problems: list[str]
    """Of reading and overriding, as whole lines."""
    broken: frozenset[FieldPath]
    """The fields that they are about."""


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> ReadValues:
    """Reads a spec file as far as its values; single ones may be wrong.

    Raises:
        SpecError: it cannot be read at all.
    """
    shown = _printable(str(path))
    root, found = read_yaml(read_file(Path(path).expanduser(), shown), shown)
    if not isinstance(root.value, dict):
        raise SpecError(f"{shown}:{root.line}:{root.column}: a spec is a mapping of fields, not {show(root.value)}")
    data, places, problems = apply_overrides(plain_value(root), overrides)
    return ReadValues(data, Positions(shown, root, places), [*problems, *found], frozenset(broken_paths(root)))


def spec_from_mapping(
    data: Mapping[str, Any],
    *,
    base_dir: str | Path = ".",
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    card: ModelCard | None = None,
    scheduled_at: datetime | None = None,
) -> LoadedSpec:
    """Checks a spec given as a mapping, as the Python API does; problems are placed at `<spec>`.

    Args:
        data: the spec's fields.
        base_dir: where its relative paths start.
        overrides: `dotted.key=value` each, applied in order before anything is checked.
        registry_paths: more card files or folders; they win over the spec's own.
        card: the model's card, in place of any registry: that of a run, as it was.
        scheduled_at: what its time fields stand for, with the timezone that they are of.

    Raises:
        SpecError: anything is wrong.
    """
    problems: list[tuple[FieldPath, str]] = []
    plain = _as_yaml_would(data, (), problems)
    if not isinstance(plain, dict):
        raise SpecError(f"<spec>: a spec is a mapping of fields, not {show(plain)}")
    changed, places, lines = apply_overrides(plain, overrides)
    positions = Positions("<spec>", None, places)
    lines += [positions.problem(path, said) for path, said in problems]
    broken = frozenset(path for path, _ in problems)
    return _check_all(changed, positions, Path(base_dir), registry_paths, lines, broken, card, scheduled_at)


def _check_all(
    data: dict[str, Any],
    positions: Positions,
    base_dir: Path,
    registry_paths: Sequence[str | Path],
    lines: list[str],
    broken: frozenset[FieldPath],
    own_card: ModelCard | None = None,
    scheduled_at: datetime | None = None,
) -> LoadedSpec:
    """`lines` are problems found before; `broken` the fields they are about, which are not complained about again."""
    broken = frozenset(path for path in broken if not positions.is_overridden(path))
    if scheduled_at is not None and scheduled_at.tzinfo is None:
        raise _spec_error([f"{positions.file}: scheduled_at {scheduled_at} has no timezone (give it one, as UTC)"])
    untimed = find_untimed(data) if scheduled_at is None else None
    if untimed is not None:
        raise _spec_error([*lines, positions.problem(*untimed)])
    data, mistimed = render_time_fields(data, scheduled_at)
    data, unset = interpolate(data)
    problems: dict[FieldPath, str] = dict((*mistimed, *unset))
    spec, wrong = validate_with_stand_ins(data, problems, broken)
    card: ModelCard | None = None
    if spec is not None:
        ignore = frozenset(wrong)
        if own_card is None:  # that of a run may hold what earlier versions let pass for no secret
            for path, said in find_plain_secrets(spec):
                problems.setdefault(path, said)
        cards: dict[str, ModelCard] | None = None
        if any(path[:1] == ("registry",) for path in problems):
            pass  # what it names is not looked at
        elif own_card is not None:
            cards = {own_card.id: own_card}
        else:
            cards = _load_cards(spec, base_dir, registry_paths, problems)
        if cards is not None:
            if spec.model not in cards and any(path[0] == "registry" for path in ignore):
                ignore |= {("model",)}  # its card may be where registry.paths was meant to say
            checked = check_spec(spec, cards, ignore=ignore)
            spec, card = checked.spec, checked.card
            for path, said in checked.problems:
                problems.setdefault(path, said)
    ordered = sorted((path for path in problems if path not in broken), key=positions.sort_key)
    lines = [*lines, *(positions.problem(path, problems[path]) for path in ordered)]
    if lines or spec is None or card is None:
        raise _spec_error(lines)
    return LoadedSpec(spec, positions.file, base_dir, card, positions, scheduled_at)


def _spec_error(lines: Sequence[str]) -> SpecError:
    shown = list(lines[:MAX_PROBLEMS])
    if len(lines) > MAX_PROBLEMS:
        shown.append(f"and {len(lines) - MAX_PROBLEMS} problems more")
    return SpecError("\n".join(shown), problems=tuple(shown), count=len(lines))


def _load_cards(
    spec: JobSpec, base_dir: Path, more: Sequence[str | Path], problems: dict[FieldPath, str]
) -> dict[str, ModelCard] | None:
    own = [Path(_local_path(base_dir, path)) for path in spec.registry.paths]
    try:
        return load_cards([*own, *(Path(path) for path in more)])
    except SpecError as error:
        # One place for all: the lines themselves name card file and line.
        problems.setdefault(("registry", "paths"), "; ".join(error.problems))
        return None


def _local_path(base_dir: Path, text: str) -> str:
    if "://" in text:
        return text
    return str((base_dir / Path(text).expanduser()).absolute())


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _as_yaml_would(value: Any, path: FieldPath, problems: list[tuple[FieldPath, str]]) -> Any:
    """Plain dicts, lists and scalars of a Python value; what YAML could not hold is a problem."""
    count = 0

    def convert(value: Any, path: FieldPath) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise SpecError(f"<spec>: {format_path(path)}: more than {MAX_VALUES} values or {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return {str(key): convert(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [convert(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, str):
            try:
                require_storable(value)
            except ValueError as error:
                problems.append((path, str(error)))
                return None
            return value
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int) and -INT_LIMIT <= value < INT_LIMIT:
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        said = f"{value} is not a finite number" if isinstance(value, float) else "an integer beyond 64 bits"
        known = isinstance(value, int | float)
        problems.append((path, said if known else f"a {type(value).__name__} cannot stand in a spec"))
        return None

    return convert(value, path)
