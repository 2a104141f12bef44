"""Say in words what a field takes: ``an integer from 1 to 4096 or "auto"``."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from abstractvision_batch.documents.strict_model import StrictModel

NoneType = type(None)


def unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Bare type and constraints of an annotation: `Annotated[int, Field(ge=1)]` → (int, (Ge(1),))."""
    constraints: tuple[Any, ...] = ()
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        for item in metadata:
            constraints += tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)
    return annotation, constraints


def members(annotation: Any) -> list[Any]:
    """Members of a union without None, each still annotated; the type itself where it is no union."""
    bare, _ = unwrap(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return [member for member in get_args(bare) if member is not NoneType]
    return [annotation]


def literals(annotation: Any) -> list[str]:
    """Words that a field takes, of all its literal members."""
    return [str(word) for member in members(annotation) for word in _literal_values(member)]


def is_model(annotation: Any) -> bool:
    """Whether the type is one of the spec's mappings of fixed fields."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def further_fields(model: type[BaseModel]) -> Any:
    """Return the type of a model's fields of further names; None where it has only those that it declares."""
    if model.model_config.get("extra") != "allow":
        return None
    hints = get_type_hints(model, include_extras=True)["__pydantic_extra__"]
    return next((get_args(hint)[1] for hint in members(hints) if get_origin(hint) is dict), Any)


def is_section(annotation: Any) -> bool:
    """Tell whether the type has fields that are read one by one: not a model that is written as one value."""
    return is_model(annotation) and getattr(annotation, "written", StrictModel.written) == StrictModel.written


def describe(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """Say what a value of the type is, as the end of ``"abc" is not ...``."""
    bare, own = unwrap(annotation)
    constraints = (*constraints, *own)
    options = members(bare)
    if len(options) > 1 or options[0] is not bare:
        whole = float in options and int in options  # which a number may be anyway
        words = [describe(option, constraints) for option in options if not (whole and option is int)]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    origin = get_origin(bare)
    if origin is Literal:
        values = _literal_values(bare)
        if len(values) == 1:
            return f'"{values[0]}"' if isinstance(values[0], str) else str(values[0])
        return f"one of {', '.join(map(str, values))}"
    if bare is bool:
        return "true or false"
    if bare is int:
        return f"an integer{_range(constraints)}"
    if bare is float:
        return f"a number{_range(constraints)}"
    if bare is str:
        return _text(constraints)
    if origin in (list, tuple):
        element = get_args(bare)[0]
        longest = next((f" of at most {item.max_length}" for item in constraints if hasattr(item, "max_length")), "")
        some = "a non-empty list" if any(getattr(item, "min_length", None) for item in constraints) else "a list"
        return f"{some}{longest}" if element is Any else f"{some}{longest}, each {describe(element)}"
    if is_model(bare):
        return str(getattr(bare, "written", "a mapping"))
    return "a mapping" if origin is dict else "a value"


def _literal_values(annotation: Any) -> tuple[Any, ...]:
    bare, _ = unwrap(annotation)
    return get_args(bare) if get_origin(bare) is Literal else ()


def _range(constraints: Sequence[Any]) -> str:
    low = high = ""
    for item in constraints:
        if isinstance(item, annotated_types.Ge):
            low = f"from {item.ge}"
        elif isinstance(item, annotated_types.Gt):
            low = f"above {item.gt}"
        elif isinstance(item, annotated_types.Le):
            high = f"{item.le}"
    if low and high:
        return f" {low} to {high}" if low.startswith("from") else f" {low} and at most {high}"
    low = low.replace("from ", "of at least ")
    return f" {low}" if low else f" up to {high}" if high else ""


def _text(constraints: Sequence[Any]) -> str:
    lengths = (getattr(item, "min_length", None) for item in constraints)
    patterns = [item.pattern for item in constraints if isinstance(item, StringConstraints) and item.pattern]
    if patterns:
        return f"text of the form {patterns[0]}"
    return "text" if not any(lengths) else "non-empty text"
