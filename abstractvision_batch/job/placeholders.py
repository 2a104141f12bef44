"""A spec of values that are partly wrong: defaults stand in for these, so that the rest can be checked as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from abstractvision_batch.documents.messages import MAX_EXPLAINED, explain
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.model import JobSpec

#: What stands in for a required field that is missing or wrong, while the rest is checked.
_STAND_INS: dict[FieldPath, Any] = {
    ("name",): "x",
    ("model",): "x",
    ("prompts",): {"source": ["x"]},
    ("prompts", "source"): ["x"],
    ("output",): {"path": "x"},
    ("output", "path"): "x",
}


def validate_with_stand_ins(
    data: dict[str, Any], problems: dict[FieldPath, str], broken: Iterable[FieldPath]
) -> tuple[JobSpec | None, set[FieldPath]]:
    """The spec with stand-ins for what is wrong, and the paths that have them; None where too much is.

    Args:
        data: The values of the spec.
        problems: What is wrong, by path; what is found is added.
        broken: Further paths that are wrong, of which enough was said.
    """
    wrong = {*problems, *broken}
    data = _without(data, wrong)
    for _ in range(8):  # a removed field may leave its parent incomplete
        try:
            return JobSpec.model_validate(data), wrong
        except ValidationError as error:
            found = explain(error, data, JobSpec)
        for path, said in found.items():
            # A mapping may be refused for what was removed from it.
            if not any(len(other) > len(path) and other[: len(path)] == path for other in wrong):
                problems.setdefault(path, said)
        if len(found) >= MAX_EXPLAINED:
            break
        # A backend of an unknown kind means nothing without it.
        removed = {path[:-1] if path[-1:] == ("kind",) else path for path in found}
        wrong |= removed
        data = _without(data, removed)
    return None, wrong


def _without(data: dict[str, Any], paths: Iterable[FieldPath]) -> dict[str, Any]:
    """Copy without the fields at `paths`, with stand-ins for required ones that are gone then."""
    for path in {_removable(data, path) for path in paths}:
        data = _removed(data, path)
    for stand_in, value in _STAND_INS.items():
        parent = data if len(stand_in) == 1 else data.get(str(stand_in[0]))
        if (
            isinstance(parent, dict)
            and stand_in[-1] not in parent
            and any(p[: len(stand_in)] == stand_in for p in paths)
        ):
            new = {**parent, stand_in[-1]: value}
            data = new if len(stand_in) == 1 else {**data, str(stand_in[0]): new}
    return data


def _removable(data: dict[str, Any], path: FieldPath) -> FieldPath:
    """The part of a path to remove: a list goes whole, and a mapping goes with a field that it lacks."""
    value: Any = data
    for length, part in enumerate(path):
        if not isinstance(value, dict) or part not in value:
            return () if path in _STAND_INS else path[:length]
        value = value[part]
    return path


def _removed(data: dict[str, Any], path: FieldPath) -> dict[str, Any]:
    if not path or path[0] not in data:
        return data
    if len(path) == 1:
        return {key: value for key, value in data.items() if key != path[0]}
    return {**data, str(path[0]): _removed(data[str(path[0])], path[1:])}
