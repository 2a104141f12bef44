"""Walks over the fields of a spec, with their marks: of the models, of a checked spec or of the values of a YAML file.

leaves                      every field that has no fields of its own, e.g. `backend.loras`
leaf.parts(), find_parts    every single value in them, e.g. `backend.loras[0].source`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from abstractvision_batch.documents.by_kind import TAG, ByKind, find_by_kind
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.documents.type_words import is_model, is_section, members, unwrap
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.marks import CountsAs, Effect, Mark

M = TypeVar("M", bound=Mark)
#: Value of a field of the models, and of one that a file's values do not have.
ABSENT: Any = object()
_UNKNOWN = FieldInfo.from_annotation(Any)


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A field of a spec, or a value in it, with the marks that hold for it."""

    name: str
    """Dotted, as recorded: a backend's own field has its kind before it."""
    path: FieldPath
    """As it stands in a spec."""
    info: FieldInfo
    annotation: Any
    marks: tuple[Mark, ...]
    """The nearest first."""
    value: Any

    def mark(self, kind: type[M]) -> M | None:
        """Return the nearest mark of a kind."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    def takes(self, form: type) -> bool:
        """Tell whether the field takes values of a type."""
        return any(unwrap(member)[0] is form for member in members(self.info.annotation))

    @property
    def takes_secret(self) -> bool:
        """Whether the field, or an entry of it, may be `{env: NAME}`."""
        forms = [unwrap(member)[0] for member in members(self.info.annotation)]
        entries = (member for form in forms if get_origin(form) is dict for member in members(get_args(form)[1]))
        return any(unwrap(form)[0] is FromEnv for form in (*forms, *entries))

    @property
    def effect(self) -> Effect:
        """Whether it changes pixels or requests, as far as is known."""
        return self.mark(Effect) or Effect.IDENTITY

    @property
    def counted(self) -> Any:
        """The value as it counts in the fingerprint."""
        alike = self.mark(CountsAs)
        return self.value if alike is None else alike.as_counted(self.value)

    @property
    def is_default(self) -> bool:
        """Whether the value counts as the field's default does."""
        return not self.info.is_required() and bool(self.counted == self.info.get_default(call_default_factory=True))

    def parts(self) -> Iterator[FieldValue]:
        """Yield each single value in it; itself if it is one."""
        value = self.value
        form, marks = _form_of(self.annotation, value)
        here = replace(self, annotation=form, marks=(*marks, *self.marks))
        if value is ABSENT:
            return
        if form is FromEnv or not isinstance(value, BaseModel | Mapping | list | tuple):
            yield here
        elif is_model(form):
            for leaf in leaves(form, value, path=self.path, prefix=f"{self.name}.", marks=here.marks):
                yield from leaf.parts()
        else:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            element = (get_args(form) or (Any,))[-1 if isinstance(value, Mapping) else 0]
            for key, item in items:
                yield from replace(here, path=(*self.path, key), annotation=element, value=item).parts()


def leaves(
    model: type[BaseModel],
    value: Any = ABSENT,
    *,
    path: FieldPath = (),
    prefix: str = "",
    marks: tuple[Mark, ...] = (),
) -> Iterator[FieldValue]:
    """Yield the fields of a model that have no fields of their own, in its order; those of every backend.

    Args:
        model: The model, e.g. `JobSpec`.
        value: One of it, or the mapping that it is read from, which may be partly wrong: then the fields that this has.
        path: Where the model is in the spec.
        prefix: What goes before the names.
        marks: Those of what the model is in.
    """
    for field in _fields_of(model):
        name, info, by_kind = field.name, field.info, field.by_kind
        child = _child(value, name)
        if child is ABSENT and value is not ABSENT:
            continue
        at, dotted, around = (*path, name), f"{prefix}{name}", (*field.marks, *marks)
        if by_kind is not None:
            said = _child(child, TAG)
            yield FieldValue(f"{dotted}.{TAG}", (*at, TAG), info, info.annotation, around, said)
            for kind in by_kind.usual if child is ABSENT else (said,):
                section = type(child) if isinstance(child, BaseModel) else by_kind.model_for({TAG: kind})
                below = () if section is None else leaves(section, child, path=at, prefix=f"{dotted}.{kind}.")
                yield from (leaf for leaf in below if leaf.path[-1] != TAG)
        elif field.section is not None and (child is ABSENT or isinstance(child, BaseModel | Mapping)):
            yield from leaves(field.section, child, path=at, prefix=f"{dotted}.", marks=around)
        else:
            yield FieldValue(dotted, at, info, info.annotation, around, child)
    for name, child in ((isinstance(value, BaseModel) and value.model_extra) or {}).items():  # of a backend of before
        yield FieldValue(f"{prefix}{name}", (*path, name), _UNKNOWN, Any, marks, child)


def find_parts(model: type[BaseModel], value: Any, mark: type[M], path: FieldPath = ()) -> Iterator[FieldValue]:
    """Yield the single values of a model that have a mark."""
    for leaf in leaves(model, value, path=path):
        yield from (part for part in leaf.parts() if part.mark(mark) is not None)


def put_value(value: Any, path: FieldPath, new: Any) -> Any:
    """Return a copy of a model, mapping or list with another value at a path that it has."""
    if not path:
        return new
    first, rest = path[0], path[1:]
    if isinstance(value, BaseModel):
        return value.model_copy(update={str(first): put_value(getattr(value, str(first)), rest, new)})
    if isinstance(value, Mapping):
        return {**value, first: put_value(value[first], rest, new)}
    return type(value)(put_value(item, rest, new) if index == first else item for index, item in enumerate(value))


@dataclass(frozen=True, slots=True)
class _Field:
    """What a walk needs to know of a field of a model."""

    name: str
    info: FieldInfo
    marks: tuple[Mark, ...]
    by_kind: ByKind | None
    section: type[BaseModel] | None
    """Its model, if it has fields of its own and no other form; a model that is one value has none."""


@cache
def _fields_of(model: type[BaseModel]) -> tuple[_Field, ...]:
    """Read the fields of a model once: a run walks its spec a dozen times."""
    found = []
    for name, info in model.model_fields.items():
        types = [unwrap(member)[0] for member in members(info.annotation)]
        section = types[0] if len(types) == 1 and is_section(types[0]) else None
        found.append(_Field(name, info, _marks(info.metadata), find_by_kind(info), section))
    return tuple(found)


def _child(value: Any, name: str) -> Any:
    if isinstance(value, BaseModel):
        return getattr(value, name, ABSENT)
    return value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT


def _form_of(annotation: Any, value: Any) -> tuple[Any, tuple[Mark, ...]]:
    """Return the member of a union that a value was meant for, and the marks on it."""
    bare, constraints = unwrap(annotation)
    marks = _marks(constraints)
    options = members(bare)
    if options == [bare]:
        return bare, marks
    forms = (_form_of(option, value) for option in options)
    return next(((form, (*own, *marks)) for form, own in forms if _fits(form, value)), (Any, marks))


def _fits(form: Any, value: Any) -> bool:
    if isinstance(value, Mapping):
        return get_origin(form) is dict or is_model(form)
    if isinstance(value, list | tuple):
        return get_origin(form) in (list, tuple)
    return form is not Any and isinstance(form, type) and isinstance(value, form)


def _marks(metadata: Any) -> tuple[Mark, ...]:
    return tuple(item for item in metadata if isinstance(item, Mark))
