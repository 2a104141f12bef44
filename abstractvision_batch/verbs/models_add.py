"""`avbatch models add`: a card to edit, for a model that has none, with a comment where a fact was inferred."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from abstractvision_batch.backends.table import derive_card, load_section_class
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.job.local_model import is_path, local_path
from abstractvision_batch.registry.card_file import parse_cards
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.likeness import Bases
from abstractvision_batch.registry.model_card import ModelCard, TaskCard
from abstractvision_batch.registry.param_rule import STANDARD_PARAMS
from abstractvision_batch.version import __version__

#: Where what a derived card says is from, by the field; `*` is any key.
_REASONS: dict[tuple[str, ...], str] = {
    ("license",): "as the model's README has it, if it has one; check it",
    ("tasks",): "by the class of the pipeline; its defaults are those of the call's signature",
    ("backends", "*", "dtype"): "of most of the weights",
    ("backends", "*", "memory_bytes"): "the size of the files of weights",
    ("backends", "*", "path"): "where the weights are; the same on every machine of a job",
    ("backends", "*", "pipelines"): "as Diffusers pairs classes over the same weights",
    ("backends", "*", "repo_id"): "whose configuration the checkpoint goes with, by the names of its weights",
}

_KEY = re.compile(r"( *)([\w./-]+):")


def describe_model(
    source: str,
    *,
    like: str | None = None,
    model_id: str | None = None,
    kind: str = "diffusers",
    registry_paths: Sequence[str] = (),
) -> tuple[ModelCard, str]:
    """Describe a model by its files.

    Args:
        source: a folder or file, or an id in the hub cache.
        like: the card that it differs from a little.
        model_id: the card's id; by default `source`, or its last part where that is a path.
        kind: of the backend that runs it.
        registry_paths: more cards.

    Returns:
        The card, and its text.

    Raises:
        SpecError: `like` is not the id of a card, or the card would not be valid.
        DependencyError: the model is not there, or cannot be run.
    """
    cards = load_cards([Path(path) for path in registry_paths])
    path = local_path(Path(), source) if is_path(source) else None
    if path is None and like is None and model_id is None and (known := cards.find(source)) is not None:
        raise SpecError(
            f"{source}: has a card ({known.origin}; give the new one a name of its own with --id, or let it differ "
            f"with --like {known.id})"
        )
    section = load_section_class(kind).model_validate({"kind": kind})
    derived = derive_card(section if path is None else section.at_path(path), model=source)
    if derived is None:
        raise DependencyError(f"backend {kind}: says nothing of a model by its files (write the card by hand)")
    facts = {**derived.backends[kind], **({"path": path} if path is not None and kind == "diffusers" else {})}
    data: dict[str, Any] = {"id": model_id or (source if path is None else Path(path).stem)}
    if like is None:
        tasks = {name: {"params": _written_params(task)} for name, task in derived.tasks.items()}
        data |= {"license": derived.license, "notes": derived.notes, "tasks": tasks, "backends": {kind: facts}}
    elif (base := cards.find(like)) is None:
        raise SpecError(f"--like: no card has the id {like!r} (`avbatch models` lists them)")
    else:
        data["like"] = base.id
        if derived.license not in ("unknown", base.license):
            data["license"] = derived.license
        theirs = base.backends.get(kind, {})
        data["backends"] = {kind: {key: value for key, value in facts.items() if theirs.get(key) != value}}
    text = f"# A card to edit, by avbatch {__version__}, from the files of {source}.\n" + _with_reasons(data)
    found, problems = parse_cards(text, "<card>", Bases(checked=cards))
    if problems:
        raise SpecError("\n".join(problems), problems=tuple(problems))
    return found[0], text


def write_card(text: str, path: Path) -> None:
    """Write a card's text to a new file.

    Raises:
        SpecError: it is there, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise SpecError(f"{path}: is there already (choose another --output)") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def _written_params(task: TaskCard) -> dict[str, dict[str, Any]]:
    """Return the parameters as a card writes them: without what it implies."""
    written: dict[str, dict[str, Any]] = {}
    for name, rule in task.params.items():
        said = {key: value for key, value in rule.to_json().items() if value is not False or key == "supported"}
        if said.get("type") == STANDARD_PARAMS.get(name):
            said.pop("type", None)
        if name != "seed" and not (name in ("prompt", "image") and said == {"required": True}):
            written[name] = said
    return written


def _with_reasons(data: Mapping[str, Any]) -> str:
    """Return the card as YAML, each inferred fact with where it is from above it."""
    lines: list[str] = []
    path: list[tuple[int, str]] = []
    for line in yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=100).splitlines():
        if found := _KEY.match(line):
            indent = len(found[1])
            path = [*((depth, key) for depth, key in path if depth < indent), (indent, found[2])]
            keys = tuple(
                "*" if depth and path[0][1] == "backends" and number == 1 else key
                for number, (depth, key) in enumerate(path)
            )
            if keys in _REASONS:
                lines.append(f"{found[1]}# {_REASONS[keys]}")
        lines.append(line)
    return "\n".join(lines) + "\n"
