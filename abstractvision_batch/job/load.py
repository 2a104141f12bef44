"""Load a job: read the YAML, apply overrides, check everything and report all violations at once.

    text → values with places (`documents.yaml_reader`) → `--set` (`overrides`) → `{{ scheduled_at }}` (`time_fields`)
         → `${NAME}` (`env`) → `JobSpec` → card (`check`)

A field that is wrong has a stand-in while the rest is checked further (`placeholders`), so that one run of the command
names every mistake. Not covered: the prompt dataset (the plan reads it).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abstractvision_batch.documents.positions import (
    FieldPath,
    Node,
    Positions,
    broken_paths,
    format_path,
    plain_value,
    show,
)
from abstractvision_batch.documents.yaml_reader import (
    INT_LIMIT,
    MAX_DEPTH,
    MAX_PROBLEMS,
    Kind,
    read_file,
    read_yaml,
    require_storable,
)
from abstractvision_batch.errors import DependencyError, SpecError, StorageError
from abstractvision_batch.job.check import check_spec
from abstractvision_batch.job.env import interpolate, resolve_options
from abstractvision_batch.job.extends import EXTENDS, merge_values, read_bases
from abstractvision_batch.job.fingerprint import FINGERPRINT_VERSION, fingerprint, join_fingerprints, model_identity
from abstractvision_batch.job.local_model import find_model_paths, local_path, resolve_backend, settle_model
from abstractvision_batch.job.marks import LocalPath
from abstractvision_batch.job.model import BackendSpec, JobSpec
from abstractvision_batch.job.overrides import apply_overrides
from abstractvision_batch.job.placeholders import validate_with_stand_ins
from abstractvision_batch.job.secrets import find_plain_secrets
from abstractvision_batch.job.time_fields import find_untimed, render_time_fields
from abstractvision_batch.job.variants import VARIANTS, describe_variants, name_models, place_variant, split_variants
from abstractvision_batch.job.walk import FieldValue
from abstractvision_batch.registry.cards import Cards, load_cards
from abstractvision_batch.registry.model_card import ModelCard

SPEC = Kind(
    "spec",
    if_missing="write a starter spec with `avbatch init`",
    if_large="put prompts into a file of their own",
)

_SOURCE = ("prompts", "source")

_HERE = Path()

if TYPE_CHECKING:
    from abstractvision_batch.storage.store import Store


@dataclass(frozen=True, slots=True)
class GivenTable:
    """A table of prompts that was given in Python, as a file that the run is to have."""

    name: str
    """In the run's folder."""
    data: bytes = field(repr=False)
    """Of a Parquet file."""


@dataclass(frozen=True, slots=True)
class GivenSpec:
    """A spec as it was given, unread: what `avbatch` takes as SPEC, `--set`, `--registry`, `--at` and `--timezone`."""

    source: str | Path | Mapping[str, Any]
    """A YAML file, or the same content."""
    overrides: tuple[str, ...] = ()
    """`dotted.key=value` each, applied in order before anything is checked."""
    registry_paths: tuple[str, ...] = ()
    """More card files or folders, relative to the current folder; they win over the spec's own."""
    scheduled_at: datetime | None = None
    """The scheduled time that its time fields stand for; its timezone is that of the schedule."""
    prompts: GivenTable | str | list[Any] | None = None
    """What stands in place of its `prompts.source`."""

    @classmethod
    def of(cls, spec: str | Path | Mapping[str, Any] | GivenSpec) -> GivenSpec:
        """Return the spec as it was given, where that may be by itself."""
        return spec if isinstance(spec, GivenSpec) else cls(spec)

    @property
    def file(self) -> Path:
        """The spec's file.

        Raises:
            SpecError: it was given as a mapping.
        """
        if isinstance(self.source, Mapping):
            raise SpecError("<spec>: is a mapping, and this needs a file (write it as YAML)")
        return Path(self.source).expanduser()

    def argv(self, verb: str = "run") -> list[str]:
        """Return the words after `avbatch` that give the same spec to a verb."""
        words = [verb, str(self.source)]
        words += [word for text in self.overrides for word in ("--set", text)]
        words += [word for path in self.registry_paths for word in ("--registry", path)]
        if self.scheduled_at is not None:
            words += ["--at", self.scheduled_at.isoformat(), "--timezone", str(self.scheduled_at.tzinfo)]
        return words


@dataclass(frozen=True, slots=True)
class Job:
    """A spec that passed every check, with how it was given and its model's card."""

    spec: JobSpec
    given: GivenSpec
    base_dir: Path
    """Where relative `prompts.source`, `registry.paths`, `backend.model_path` and LoRA sources start."""
    card: ModelCard
    positions: Positions
    version: int = FINGERPRINT_VERSION
    """The fingerprint's version, which says by which rules it is planned: that of its run, where there is one."""
    variant: str | None = None
    """Its name, where it is one variant of a job, as if it were a job of its own."""
    parts: tuple[Job, ...] = ()
    """The variants of a job that has any; its `spec` without them and its `card` are then those of the first."""

    @property
    def variants(self) -> tuple[Job, ...]:
        """The variants, each with its own model, card, backend and parameters; the job itself where it has none."""
        return self.parts or (self,)

    @property
    def model_folder(self) -> str:
        """Where a run of it records what is known of its model: its own folder, but for a variant."""
        return "" if self.variant is None else f"models/{model_identity(self.spec)}/"

    @property
    def made_by(self) -> str:
        """The models that make its pictures, each with its backend, in a line."""
        return name_models((job.variant, job.spec.model, job.spec.backend.kind) for job in self.variants)

    @property
    def specs(self) -> tuple[JobSpec, ...]:
        """The specs of its variants, each as if it were a job of its own."""
        return tuple(job.spec for job in self.variants)

    def variant_named(self, name: str | None) -> Job:
        """Return a variant.

        Raises:
            SpecError: the job has none of that name.
        """
        for job in self.variants:
            if job.variant == name:
                return job
        raise SpecError(f"{self.path}: has no variant {name!r} (as its run has: leave the names of variants)")

    def with_each(self, change: Callable[[Job], Job]) -> Job:
        """Return the job with a change of every variant; the job's own fields are those of the first."""
        if not self.parts:
            return change(self)
        parts = tuple(map(change, self.parts))
        variants = dict(zip((part.variant for part in parts), self.spec.variants.values(), strict=True))
        spec = parts[0].spec.model_copy(update={VARIANTS: variants})
        return replace(self, spec=spec, parts=parts, version=parts[0].version)

    @property
    def path(self) -> str:
        """The file as it was named, or `<spec>` for a mapping."""
        return self.positions.file

    @property
    def files(self) -> list[Path]:
        """The file of the spec, and those that it extends."""
        return [Path(self.path), *(Path(name) for name, _ in self.positions.bases)]

    @property
    def scheduled_at(self) -> datetime | None:
        """The scheduled time that its time fields were replaced for."""
        return self.given.scheduled_at

    def at(self, field: str | FieldPath) -> str:
        """Return the place of a field and its name, as a message begins: `file:9:5: output.path`."""
        path = tuple(field.split(".")) if isinstance(field, str) else field
        return f"{self.positions.where(path)}: {format_path(self.positions.place(path))}"

    @contextmanager
    def blame(self, field: str) -> Iterator[None]:
        """Name the field of the spec that asks for what is missing.

        Before the first byte is written, a store that refuses is a wrong spec, not a storage failure to retry. One
        that is down is a storage failure like any other.
        """
        try:
            yield
        except DependencyError as exc:
            raise type(exc)(f"{self.at(field)}: {exc}") from exc
        except StorageError as exc:
            if exc.transient:
                raise exc.with_message(f"{self.at(field)}: {exc} (running the same command again tries again)") from exc
            raise SpecError(f"{self.at(field)}: {exc} (choose another)") from exc

    def open_output(self, given: Mapping[str, Any] | None = None, *, writable: bool = False) -> Store:
        """Open the store of the output, with storage options that are `given` over those of the spec.

        Raises:
            SpecError: it cannot be opened, or, where it is to be `writable`, nothing can be written there.
            DependencyError: its driver is not installed.
        """
        from abstractvision_batch.storage.store import open_store  # takes as long to import as the rest

        with self.blame("output.path"):
            store = open_store(self.spec.output.path, self.output_options(given))
            if writable:
                store.check_writable()
        return store

    def output_options(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return `output.storage_options` with their secrets looked up, and over them those `given`; never log them."""
        return resolve_options(self.spec.output.storage_options, self.at("output.storage_options"), given=given)

    def prompt_options(self) -> dict[str, Any]:
        """Return `prompts.storage_options` with their secrets looked up; never log them."""
        return resolve_options(self.spec.prompts.storage_options, self.at("prompts.storage_options"))

    def under(self, version: int) -> Job:
        """Return the spec as it is planned by the rules of a version."""
        return self.with_each(lambda job: job if version == job.version else replace(job, version=version))

    def fingerprint(self, prompts_digest: str) -> str:
        """Return the fingerprint of the job with these prompts, whatever variants are called and their order."""
        if self.parts:
            return join_fingerprints(part.fingerprint(prompts_digest) for part in self.parts)
        return fingerprint(self.spec, prompts_digest=prompts_digest, card=self.card, version=self.version)

    def local_path(self, text: str) -> str:
        """A path of the spec made absolute; a URL, or an absolute path, stays as it is."""
        return local_path(self.base_dir, text)

    @property
    def backend(self) -> BackendSpec:
        """The backend with local paths made absolute: what `create_backend` takes."""
        return resolve_backend(self.spec, self.base_dir)

    def model_paths(self) -> Iterator[tuple[FieldValue, LocalPath]]:
        """Yield the paths that the backend's fields hold, as they are written, with their marks."""
        return find_model_paths(self.spec)


def load_job(
    spec: str | Path | Mapping[str, Any] | GivenSpec,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str | Path] = (),
    scheduled_at: datetime | None = None,
    base_dir: str | Path | None = None,
    cards: Mapping[str, ModelCard] | None = None,
) -> Job:
    """Load and check a spec.

    Args:
        spec: Path of a YAML file, a mapping of the same content, or how either was given.
        overrides: `dotted.key=value` each, after those that it was given with.
        registry_paths: More card files or folders.
        scheduled_at: What its time fields stand for, with the timezone that they are of.
        base_dir: Where the relative paths of a mapping start, by default here.
        cards: Cards by id, in place of any registry: those of a run, as they were.

    Raises:
        SpecError: anything is wrong; `problems` has one `file:line:column: field: what (what would do)` line each. Of a
            mapping the place is `<spec>`.
    """
    given = GivenSpec.of(spec)
    given = replace(
        given,
        overrides=(*given.overrides, *overrides),
        registry_paths=(*given.registry_paths, *map(str, registry_paths)),
        scheduled_at=scheduled_at or given.scheduled_at,
    )
    if base_dir is None:
        base_dir = "." if isinstance(given.source, Mapping) else given.file.parent
    return _check(given, read_values(given, Path(base_dir)), Path(base_dir), cards)


@dataclass(frozen=True, slots=True)
class ReadValues:
    """The values of a spec as they stand there, overridden but not checked."""

    data: dict[str, Any]
    positions: Positions
    problems: list[str]
    """Of reading and overriding, as whole lines."""
    broken: frozenset[FieldPath]
    """The fields that they are about."""


#: What a verb takes as a job: loaded, or as `load_job` takes it.
JobLike = str | Path | Mapping[str, Any] | GivenSpec | Job


def read_values(given: GivenSpec, folder: Path = _HERE) -> ReadValues:
    """Read a spec, over those that it extends, as far as its values; single ones may be wrong.

    `folder` is where the paths of a mapping start.

    Raises:
        SpecError: it cannot be read at all.
    """
    if isinstance(given.source, Mapping):
        shown, root = "<spec>", None
        wrong: list[tuple[FieldPath, str]] = []
        plain = _as_yaml_would(given.source, (), wrong)
        said = [Positions(shown).problem(path, text) for path, text in wrong]
        broken = frozenset(path for path, _ in wrong)
    else:
        shown = _printable(str(given.source))
        root, said = read_yaml(read_file(given.file, shown, SPEC), shown, SPEC)
        if not isinstance(root.value, dict):
            raise SpecError(f"{shown}:{root.line}:{root.column}: a spec is a mapping of fields, not {show(root.value)}")
        plain, broken = plain_value(root), frozenset(broken_paths(root))
        folder = given.file.parent
    own = None if root is None else str(given.source)
    bases: list[tuple[str, Node]] = []
    if plain.get(EXTENDS) is not None:
        bases, found = read_bases(plain[EXTENDS], Positions(shown, root).where((EXTENDS,)), own, folder, SPEC)
        layers = [plain_value(base) for _, base in reversed(bases)] + [plain]
        plain = reduce(merge_values, layers)
        broken = broken.union(*(broken_paths(base) for _, base in bases))
        plain = {name: value for name, value in plain.items() if name != EXTENDS}
        said = [*said, *found]
    # A place for anchors, as in cards.
    plain = {name: value for name, value in plain.items() if not name.startswith("x-")}
    plain = _with_given_prompts(plain, given.prompts)
    data, places, problems = apply_overrides(plain, given.overrides)
    positions = Positions(shown, root, places, tuple(bases))
    if data.get(EXTENDS) is not None:
        problems.append(positions.problem((EXTENDS,), "is read before --set (write it into the spec)"))
    return ReadValues(data, positions, [*problems, *said], broken)


def _with_given_prompts(data: dict[str, Any], prompts: GivenTable | str | list[Any] | None) -> dict[str, Any]:
    if prompts is None or not isinstance(section := data.get("prompts", {}), dict):
        return data
    source = {"frame": prompts.name} if isinstance(prompts, GivenTable) else _as_yaml_would(prompts, _SOURCE, [])
    return {**data, "prompts": {**section, "source": source}}


def _check(given: GivenSpec, read: ReadValues, base_dir: Path, own_cards: Mapping[str, ModelCard] | None) -> Job:
    positions, scheduled_at = read.positions, given.scheduled_at
    if scheduled_at is not None and scheduled_at.tzinfo is None:
        raise _spec_error([f"{positions.file}: scheduled_at {scheduled_at} has no timezone (give it one, as UTC)"])
    broken = frozenset(path for path in read.broken if not positions.is_overridden(path))
    split, misshapen = split_variants(read.data)
    places = {name: place_variant(positions, name, read.data) for name in split}
    parts: list[_Checked] = []
    for name, values in split.items():
        at = places[name]
        untimed = find_untimed(values) if scheduled_at is None else None
        if untimed is not None:
            raise _spec_error([*read.problems, positions.problem(at.place(untimed[0]), untimed[1])])
        hurt = frozenset(path for place in broken if (path := at.within(place)) is not None)
        parts.append(_check_values(given, values, name, at, hurt, base_dir, own_cards))
    problems = _gather(parts, misshapen)
    ordered = sorted((path for path in problems if path not in broken), key=positions.sort_key)
    lines = [*read.problems, *(positions.problem(path, problems[path]) for path in ordered)]
    jobs = [checked.job for checked in parts if checked.job is not None]
    if lines or len(jobs) < len(parts):
        raise _spec_error(lines)
    return jobs[0] if jobs[0].variant is None else join_variants(jobs, positions)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What checking the values of a job, or of one variant of it, gave."""

    job: Job | None
    """None where too much is wrong."""
    places: Positions
    problems: dict[FieldPath, str]


def _check_values(
    given: GivenSpec,
    data: dict[str, Any],
    variant: str | None,
    positions: Positions,
    broken: frozenset[FieldPath],
    base_dir: Path,
    own_cards: Mapping[str, ModelCard] | None,
) -> _Checked:
    data, mistimed = render_time_fields(data, given.scheduled_at)
    data, unset = interpolate(data)
    problems: dict[FieldPath, str] = dict((*mistimed, *unset))
    spec, wrong = validate_with_stand_ins(data, problems, broken)
    card: ModelCard | None = None
    if spec is not None:
        ignore = frozenset(wrong)
        if own_cards is None:  # those of a run may hold what earlier versions let pass for no secret
            for path, said in find_plain_secrets(spec):
                problems.setdefault(path, said)
        cards = None if own_cards is None else Cards(own_cards)
        if any(path[:1] == ("registry",) for path in problems):
            cards = None  # what it names is not looked at
        elif own_cards is None:
            cards = _load_cards(spec, base_dir, given.registry_paths, problems)
        if cards is not None:
            if spec.model not in cards and any(path[0] == "registry" for path in ignore):
                ignore |= {("model",)}  # its card may be where registry.paths was meant to say
            spec, cards, missing = settle_model(spec, cards, base_dir, ignore)
            problems |= missing
            ignore |= missing.keys()
            checked = check_spec(spec, cards, ignore=ignore)
            spec, card = checked.spec, checked.card
            for path, said in checked.problems:
                problems.setdefault(path, said)
    job = None if spec is None or card is None else Job(spec, given, base_dir, card, positions, variant=variant)
    return _Checked(job, positions, {path: said for path, said in problems.items() if path not in broken})


def _gather(parts: Sequence[_Checked], misshapen: Mapping[FieldPath, str]) -> dict[FieldPath, str]:
    """Return all problems at their places; of the job's own fields, that which only some variants have names these."""
    found: dict[FieldPath, dict[str, list[str]]] = {}
    for checked in parts:
        for path, said in checked.problems.items():
            variant = getattr(checked.places, "variant", None)
            found.setdefault(checked.places.place(path), {}).setdefault(said, []).append(str(variant))
    problems = dict(misshapen)
    for path, said_by in found.items():
        own = path[0] == VARIANTS
        lines = [
            said if own or len(names) == len(parts) else f"{said} (in variant {', '.join(names)})"
            for said, names in said_by.items()
        ]
        problems.setdefault(path, "; ".join(lines))
    return problems


def join_variants(jobs: Sequence[Job], positions: Positions) -> Job:
    """Make one job of its variants, whose own fields are those of the first.

    Raises:
        SpecError: two of them are the same job.
    """
    first, known = jobs[0], dict[str, Job]()
    for job in jobs:
        twin = known.setdefault(job.fingerprint(""), job)
        if twin is not job:
            hint = "remove one; two servers are told apart by backend.label"
            said = f"is the same job as variant {twin.variant}: {job.spec.model} with equal settings ({hint})"
            raise _spec_error([positions.problem((VARIANTS, str(job.variant)), said)])
    differences = describe_variants(
        {str(job.variant): job.spec.model_dump(mode="json", exclude_unset=True) for job in jobs}
    )
    spec = first.spec.model_copy(update={VARIANTS: differences})
    return Job(spec, first.given, first.base_dir, first.card, positions, parts=tuple(jobs))


def _spec_error(lines: Sequence[str]) -> SpecError:
    shown = list(lines[:MAX_PROBLEMS])
    if len(lines) > MAX_PROBLEMS:
        shown.append(f"and {len(lines) - MAX_PROBLEMS} problems more")
    return SpecError("\n".join(shown), problems=tuple(shown), count=len(lines))


def _load_cards(spec: JobSpec, base_dir: Path, more: Sequence[str], problems: dict[FieldPath, str]) -> Cards | None:
    own = [Path(local_path(base_dir, path)) for path in spec.registry.paths]
    try:
        return load_cards([*own, *(Path(path) for path in more)])
    except SpecError as error:
        # One place for all: the lines themselves name card file and line.
        problems.setdefault(("registry", "paths"), "; ".join(error.problems))
        return None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _as_yaml_would(value: Any, path: FieldPath, problems: list[tuple[FieldPath, str]]) -> Any:
    """Plain dicts, lists and scalars of a Python value; what YAML could not hold is a problem."""
    count = 0

    def convert(value: Any, path: FieldPath) -> Any:
        nonlocal count
        count += 1
        if count > SPEC.max_values or len(path) > MAX_DEPTH:
            raise SpecError(f"<spec>: {format_path(path)}: more than {SPEC.max_values} values or {MAX_DEPTH} levels")
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
