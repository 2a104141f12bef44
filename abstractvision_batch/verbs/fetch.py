"""`avbatch fetch`: brings everything that a model or a spec needs from the hub into the cache, before a run.

    what is needed (the backend) → which files, how large, which are here (the hub) → download, here or on every node

Not covered: weights of scorers; servers, which have their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.table import create_backend, load_section_class
from abstractvision_batch.documents.positions import format_path
from abstractvision_batch.errors import ClusterError, DependencyError, SpecError
from abstractvision_batch.job.load import GivenSpec, load_job, read_values
from abstractvision_batch.job.local_model import is_path, local_path
from abstractvision_batch.job.variants import VARIANTS, split_variants
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.model_names import suggest_model
from abstractvision_batch.storage.hub import HubFiles, HubPart, fetch_files, settle_files


@dataclass(frozen=True, slots=True)
class Fetched:
    """A part that is now in the cache of a node."""

    files: HubFiles
    node: str
    """Host name; empty for this machine."""
    folder: str


def fetch(
    target: str,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str] = (),
    revision: str | None = None,
    cache_dir: str | None = None,
    address: str | None = None,
) -> list[Fetched]:
    """Bring everything that a spec, a model or a repository needs from the hub into the cache, before a run.

    Args:
        target: a spec's file, the id of a card, a checkpoint, or the id of a repository.
        overrides: `dotted.key=value` each, of a spec.
        registry_paths: more cards.
        revision: of a model, for its branch, tag or commit.
        cache_dir: of a model, for the hub cache.
        address: of a Ray cluster, to fetch on every node of it.

    Raises:
        SpecError: the spec is wrong.
        DependencyError: the hub is not reached, a model is gated or unknown, or the disk is too small.
        ClusterError: the cluster is not reached, or it failed on a node; the others have theirs.
    """
    parts = find_parts(
        target, overrides=overrides, registry_paths=registry_paths, revision=revision, cache_dir=cache_dir
    )
    return list(bring(settle(parts), address))


def find_parts(
    target: str,
    *,
    overrides: Sequence[str] = (),
    registry_paths: Sequence[str] = (),
    revision: str | None = None,
    cache_dir: str | None = None,
) -> list[HubPart]:
    """Say what a spec, a model or a repository needs from the hub; arguments are those of `fetch`.

    Raises:
        SpecError: the spec is wrong.
        DependencyError: a checkpoint is not there, or its kind is unknown.
    """
    if target.endswith((".yaml", ".yml")):
        given = GivenSpec(target, tuple(overrides), tuple(registry_paths))
        # what a model without a card takes is then read from the hub
        job = load_job(given, overrides=_allowing_downloads(given))
        found: dict[tuple[str | None, ...], HubPart] = {}
        for variant in job.variants:
            if variant.spec.backend.server_url is not None:
                continue  # it has its own, and making the backend may need its key
            with create_backend(variant.backend, card=variant.card, model=variant.spec.model) as backend:
                for part in backend.hub_parts(variant.spec.task):
                    found.setdefault((part.part, part.repo_id, part.revision, part.cache_dir), part)
        return list(found.values())
    cards = load_cards([Path(path) for path in registry_paths])
    card = cards.find(target)
    if card is None and "/" not in target and not is_path(target):
        near = suggest_model(target, cards)
        hint = f"did you mean {near}?" if near else "`avbatch models` lists them"
        raise SpecError(f"{target}: no card has this id, and a repository of the hub is owner/name ({hint})")
    kind = "diffusers"
    if card is not None and kind not in card.backends:
        raise SpecError(f"{card.id}: nothing of it is on the hub for {', '.join(card.backends) or 'any backend'}")
    fields = {"revision": revision, "cache_dir": cache_dir}
    given_fields = {name: value for name, value in fields.items() if value is not None}
    section = load_section_class(kind).model_validate({"kind": kind, **given_fields})
    if is_path(target):
        section = section.at_path(local_path(Path(), target))
    with create_backend(section, card=card, model=card.id if card is not None else target) as backend:
        return list(backend.hub_parts())


def settle(parts: Sequence[HubPart]) -> list[HubFiles]:
    """Ask the hub which files the parts are, how large, and which are not here.

    Raises:
        DependencyError: it is not reached, one is gated or unknown, or the disk is too small; a line for each.
    """
    settled: list[HubFiles] = []
    problems: list[str] = []
    for part in parts:
        try:
            settled.append(settle_files(part))
        except DependencyError as error:
            problems.append(f"{part.part}: {error}")
    if problems:
        raise DependencyError("; ".join(problems))
    return settled


def bring(files: Sequence[HubFiles], address: str | None = None) -> Iterator[Fetched]:
    """Bring files into the hub cache of this machine, or of every node of a Ray cluster.

    Raises:
        DependencyError: a download failed, or the disk is too small.
        ClusterError: the cluster is not reached, or it failed on a node; the others have theirs.
    """
    if address is None:
        _check_disk(files)
        for one in files:
            yield Fetched(one, "", fetch_files(one))
        return
    from abstractvision_batch.execute.ray.everywhere import call_everywhere

    answers = call_everywhere(address, _fetch_all, tuple(files))
    for answer in answers:
        for one, folder in zip(files, answer.value or (), strict=False):
            yield Fetched(one, answer.node, folder)
    if problems := [f"{answer.node}: {answer.problem}" for answer in answers if answer.problem is not None]:
        raise ClusterError("; ".join(problems))


def _fetch_all(files: Sequence[HubFiles]) -> list[str]:
    return [fetch_files(one) for one in files]


def _allowing_downloads(given: GivenSpec) -> tuple[str, ...]:
    variants, _ = split_variants(read_values(given).data)
    sections = {
        "backend" if name is None else format_path((VARIANTS, name, "backend")): values.get("backend", {})
        for name, values in variants.items()
    }
    return tuple(f"{field}.allow_download=true" for field, section in sections.items() if _may_download(section))


def _may_download(section: Any) -> bool:
    kind = section.get("kind", "diffusers") if isinstance(section, dict) else "diffusers"
    try:
        return "allow_download" in load_section_class(kind).model_fields
    except DependencyError:
        return False  # what is wrong with it is said when the spec is checked


def _check_disk(files: Sequence[HubFiles]) -> None:
    from huggingface_hub import constants

    needed: dict[str, int] = {}
    for one in files:
        place = one.cache_dir or constants.HF_HUB_CACHE
        needed[place] = needed.get(place, 0) + one.missing_bytes
    for place, size in needed.items():
        folder = Path(place).expanduser()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if size > free:
            raise DependencyError(
                f"{place}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free (set HF_HOME to another disk)"
            )
