"""`extends: base.yaml`: a spec over another one, which may extend a further one; merged before anything is checked.

Mappings are merged key by key. Anything else replaces what the base says: a list, a value that is written as a mapping
(a range, a distribution), and a mapping of another `kind`. `null` unsets what the base says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from abstractvision_batch.documents.by_kind import TAG
from abstractvision_batch.documents.positions import Node, show
from abstractvision_batch.documents.type_words import (
    NoneType,
    further_fields,
    is_model,
    is_section,
    members,
    unwrap,
)
from abstractvision_batch.documents.yaml_reader import Kind, read_file, read_yaml
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.draw import DrawSpec
from abstractvision_batch.job.model import JobSpec

EXTENDS = "extends"
_MAX_LEVELS = 20


def read_bases(
    first: object, place: str, own: str | None, folder: Path, kind: Kind
) -> tuple[list[tuple[str, Node]], list[str]]:
    """Read the files that a spec extends, the nearest first, and what is wrong with single values of them.

    Args:
        first: What the spec says after `extends`.
        place: Of that, as messages begin.
        own: The spec's file, where it is of one.
        folder: Where paths in it start.
        kind: Of the documents.

    Raises:
        SpecError: a file cannot be read, or extends itself.
    """
    bases: list[tuple[str, Node]] = []
    problems: list[str] = []
    seen = {} if own is None else {Path(own).expanduser().resolve(): own}
    name = first
    while name is not None:
        if not isinstance(name, str) or not name.strip():
            raise SpecError(f"{place}: extends: {show(name)} is not the path of a spec")
        path = folder / Path(name).expanduser()
        if path.resolve() in seen:
            chain = " → ".join([*seen.values(), str(path)])
            raise SpecError(f"{place}: extends: comes back to {path} ({chain})")
        if len(seen) == _MAX_LEVELS:
            raise SpecError(f"{place}: extends: more than {_MAX_LEVELS} levels")
        if not path.is_file():
            raise SpecError(f"{place}: extends: {path}: no such file (its path starts at the folder of this one)")
        seen[path.resolve()] = shown = str(path)
        root, found = read_yaml(read_file(path, shown, kind), shown, kind)
        if not isinstance(root.value, dict):
            raise SpecError(f"{shown}:{root.line}:{root.column}: a spec is a mapping of fields, not {show(root.value)}")
        problems += found
        bases.append((shown, root))
        node = root.value.get(EXTENDS)
        name, folder = node and node.value, path.parent
        place = ":".join(map(str, (shown, *root.keys.get(EXTENDS, ()))))
    return bases, problems


def merge_values(base: Any, own: Any, annotation: Any = JobSpec) -> Any:
    """Return what `base` says with what `own` says over it, as values of a field of this type."""
    if not (isinstance(base, dict) and isinstance(own, dict) and _merges(annotation)):
        return own
    if TAG in own and own[TAG] != base.get(TAG, own[TAG]):
        return own
    merged = dict(base)
    for name, value in own.items():
        below = _below(annotation, name)
        if value is None and not _takes_null(below):
            merged.pop(name, None)
        else:
            merged[name] = merge_values(merged.get(name), value, below)
    return merged


def _forms(annotation: Any) -> list[Any]:
    return [unwrap(member)[0] for member in members(annotation)]


def _merges(annotation: Any) -> bool:
    models = [form for form in _forms(annotation) if is_model(form)]
    return all(is_section(model) or model is DrawSpec for model in models)


def _below(annotation: Any, name: str) -> Any:
    for form in _forms(annotation):
        if is_model(form) and name in form.model_fields:
            return form.model_fields[name].annotation
        if is_model(form) and (further := further_fields(form)) is not None:
            return further
        if get_origin(form) is dict:
            return get_args(form)[1]
    return Any


def _takes_null(annotation: Any) -> bool:
    return NoneType in get_args(unwrap(annotation)[0])
