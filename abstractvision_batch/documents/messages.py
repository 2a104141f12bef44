"""Turn pydantic's errors into one sentence per field, in the document's own words.

Pydantic reports every member of a union and names members inside paths; here the model's types are walked beside the
path, so that ``actors: 0`` gives one sentence and ``backend.diffusers.device`` is `backend.device` again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from abstractvision_batch.documents.by_kind import NO_SUCH_KIND, TAG, ByKind, find_by_kind
from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.documents.type_words import (
    describe,
    further_fields,
    is_model,
    is_section,
    literals,
    members,
    unwrap,
)
from abstractvision_batch.text.suggestions import hint_for_field, hint_for_value
from abstractvision_batch.types import TASKS

#: At a time. More are one mistake made in every element of a list, and explaining takes 0.1 ms each.
MAX_EXPLAINED = 200

_HIDDEN = frozenset({"storage_options", "api_key", "headers", "env_vars"})
_YES_NO = frozenset({"yes", "no", "on", "off", "y", "n", "true", "false"})


class FieldProblems(ValueError):  # noqa: N818
    """Several things that are wrong with a model's fields, which its validator found; paths start at the model."""

    def __init__(self, problems: Sequence[tuple[FieldPath, str]]) -> None:
        super().__init__("; ".join(what for _, what in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a walk along an error's path has arrived: field, its type and constraints, the value found there."""

    path: FieldPath
    annotation: Any
    constraints: tuple[Any, ...]
    value: Any
    by_kind: ByKind | None = None
    doc: str | None = None


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> dict[FieldPath, str]:
    """Return the message of every wrong field of `data`, which `model` refused, one each."""
    found: dict[FieldPath, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        said = _explain_one(_Spot((), model, (), data), list(item["loc"]), item, model)
        if said is None:
            continue
        at, what = said
        several = item["ctx"]["error"] if item["type"] == "value_error" else None
        for below, own in several.problems if isinstance(several, FieldProblems) else [((), what)]:
            found.setdefault((*at, *below), own)
        if len(found) >= MAX_EXPLAINED:
            break
    return found or {(): error.errors(include_url=False)[0]["msg"]}


def field_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, parents before children, first ones first; not of what is one value, as a range."""
    yield from (f"{prefix}{name}" for name in model.model_fields)
    for name, info in model.model_fields.items():
        by_kind = find_by_kind(info)
        models = by_kind.usual_models() if by_kind else [unwrap(member)[0] for member in members(info.annotation)]
        for one in filter(is_section, models):
            yield from field_names(one, f"{prefix}{name}.")


def _explain_one(
    spot: _Spot, rest: list[str | int], item: Any, document: type[BaseModel]
) -> tuple[FieldPath, str] | None:
    """Field and message of one of pydantic's errors; None for one about another union member than was meant."""
    while rest:
        bares = [unwrap(member)[0] for member in members(spot.annotation)]
        bare, origin = bares[0], get_origin(bares[0])
        part = rest.pop(0)
        if spot.by_kind is not None:
            bare = spot.by_kind.model_for(spot.value)
        if len(bares) > 1:
            chosen = _member_for(spot.value, bares)
            if chosen is None:
                break
            if not rest and item["type"] == "value_error":
                break  # what this member, as a whole, was refused for
            if not rest or isinstance(rest[0], int) != (get_origin(chosen) in (list, tuple)):
                return None
            spot = _Spot(spot.path, chosen, (), spot.value)
        elif is_model(bare):
            if part not in bare.model_fields:
                further = further_fields(bare)
                if further is None or (item["type"] == "value_error" and not rest):
                    said = str(item["ctx"]["error"]) if further is not None else ""
                    return (*spot.path, part), said or _unknown("field", str(part), _written_fields(bare), document)
                spot = _Spot((*spot.path, part), further, (), _child(spot.value, part))
                continue
            info = bare.model_fields[str(part)]
            if item["type"] == "missing" and not rest:
                return (*spot.path, part), f"required field is missing{_in_parentheses(_as_clause(info.description))}"
            spot = _field_of(spot, str(part), info)
        elif origin in (dict, list, tuple):
            if rest == ["[key]"] and item["type"] == "value_error":
                return (*spot.path, part), str(item["ctx"]["error"])
            if rest == ["[key]"]:
                return (*spot.path, part), _unknown_key(str(part), literals(get_args(bare)[0]), document)
            element = get_args(bare)[-1 if origin is dict else 0]
            spot = _Spot((*spot.path, part), element, (), _child(spot.value, part))
        else:
            break
    names_kind = item["type"] == NO_SUCH_KIND and isinstance(spot.value, dict) and TAG in spot.value
    return (*spot.path, TAG) if names_kind else spot.path, _wrong_value(spot, item)


def _field_of(spot: _Spot, name: str, info: FieldInfo) -> _Spot:
    value = _child(spot.value, name)
    return _Spot((*spot.path, name), info.annotation, tuple(info.metadata), value, find_by_kind(info), info.description)


def _wrong_value(spot: _Spot, item: Any) -> str:
    value = spot.value
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if spot.by_kind is not None and isinstance(value, dict):
        kinds = sorted(spot.by_kind.kinds())
        if TAG not in value:
            return f"required field {TAG} is missing (one of {', '.join(kinds)})"
        kind = value[TAG]
        hint = hint_for_value(kind, kinds) if isinstance(kind, str) else None
        return f"{show(kind)} is not one of {', '.join(kinds)}{_in_parentheses(hint)}"
    wanted = describe(spot.annotation, spot.constraints)
    if value is None:
        return f"is empty, not {wanted} (remove the line or give a value)"
    if " of the form " in wanted and spot.doc:
        wanted = f"{wanted.partition(' of the form ')[0]} of this form: {_as_clause(spot.doc)}"
    # A secret that was written where the name of its variable belongs is not repeated.
    shown = "this value" if _HIDDEN.intersection(map(str, spot.path)) else show(value)
    return f"{shown} is not {wanted}{_in_parentheses(_hint(spot, value))}"


def _hint(spot: _Spot, value: Any) -> str | None:
    if spot.path[-1:] == ("seed",) and value == -1:
        return "leave it out for a derived seed"
    words = literals(spot.annotation)
    bares = [unwrap(member)[0] for member in members(spot.annotation)]
    if isinstance(value, str):
        if bool in bares and value.lower() in _YES_NO:
            return "write true or false"
        if (int in bares or float in bares) and _is_number(value):
            return "without quotes"
        return hint_for_value(value, words) if words else None
    if str in bares and isinstance(value, bool | int | float):
        return "quote it"
    if isinstance(value, str | int | float) and any(get_origin(bare) in (list, tuple) for bare in bares):
        return f"write [{show(value)}]"
    return None


def _unknown(what: str, word: str, known: Sequence[str], document: type[BaseModel]) -> str:
    return f"unknown {what} ({hint_for_field(word, known, _all_fields(document))})"


def _unknown_key(word: str, known: Sequence[str], document: type[BaseModel]) -> str:
    what = "task" if TASKS[0] in known else "field"
    return _unknown(what, word, known, document)


def _written_fields(model: type[BaseModel]) -> list[str]:
    return [name for name in model.model_fields if name not in getattr(model, "unwritten", ())]


@cache
def _all_fields(document: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field_names(document))


def _member_for(value: Any, bares: list[Any]) -> Any:
    """Union member that a list or mapping was meant for; None for scalars and where no member takes either."""
    for bare in bares:
        if isinstance(value, list) and get_origin(bare) in (list, tuple):
            return bare
        if isinstance(value, dict) and (is_model(bare) or get_origin(bare) is dict):
            return bare
    return None


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_clause(doc: str | None) -> str | None:
    """First sentence of a field's description, to stand inside a sentence."""
    if not doc:
        return None
    line = doc.splitlines()[0].partition(". ")[0].rstrip(".")
    return line[0].lower() + line[1:]


def _in_parentheses(text: str | None) -> str:
    return f" ({text})" if text else ""
