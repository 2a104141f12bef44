"""Which schedulers fit a model, and the settings that each takes, by the source of the installed Diffusers.

A scheduler of another kind than the model was trained with makes noise, not an error, so that fit is checked: by what
the class of the model's own says of others, and by whether the model predicts a flow. Neither torch nor Diffusers is
imported. Not covered: making one (`scheduler_switch`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError, create_model

from abstractvision_batch.backends.huggingface_diffusers.locate import ModelFiles
from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import (
    SOLVERS,
    SchedulerChoice,
    from_cell,
    read_scheduler,
)
from abstractvision_batch.backends.huggingface_diffusers.signatures import (
    list_schedulers,
    read_scheduler_source,
)
from abstractvision_batch.documents.messages import explain
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.documents.strict_model import Number, UndocumentedModel
from abstractvision_batch.text.suggestions import hint_for

_FLOW, _DDIM = "FlowMatch", "DDIMScheduler"
#: Made from the configuration of any scheduler that DDIM's is made from, as their pages do; no class names them.
_LIKE_DDIM = ("LCMScheduler", "SASolverScheduler", "TCDScheduler")
#: What a solver of noise needs to solve a flow; those that can have both settings.
_AS_FLOW: Mapping[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
#: Of these a scheduler takes one at most.
_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_TYPES: Mapping[str, Any] = {"bool": bool, "float": Number, "int": int, "list": list[Any], "str": str}

Problem = tuple[FieldPath, str]


@dataclass(frozen=True, slots=True)
class OwnScheduler:
    """The scheduler that a model was saved with."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelFiles) -> OwnScheduler | None:
        """Return that of a model's folder; None where it has none."""
        entry = model.index.get("scheduler")
        name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        return cls(name, model.configuration("scheduler")) if isinstance(name, str) else None

    @property
    def is_flow(self) -> bool:
        """Whether the model predicts a flow, not noise."""
        return self.name.startswith(_FLOW) or self.config.get("prediction_type") == "flow_prediction"

    def fitting(self) -> list[str]:
        """Return the classes that fit, the own one first."""
        known = list_schedulers()
        own = read_scheduler_source(self.name)
        if own is None:
            return list(known)
        like = read_scheduler_source(_DDIM) if self.is_flow or self.name in _LIKE_DDIM else own
        named = set(like.compatibles if like else ())
        named |= set(_LIKE_DDIM) if _DDIM in named else set()
        if self.is_flow:
            named = {name for name in known if name.startswith(_FLOW) or (name in named and _solves_flow(name))}
        return [self.name, *(name for name in known if name in named and name != self.name)]

    def value_of(self, setting: str, default: Any) -> Any:
        """Return what a setting is for another scheduler that is made from this one's configuration."""
        return default if setting in self.config.get("_use_default_values", ()) else self.config.get(setting, default)


def find_scheduler_problems(value: Any, own: OwnScheduler | None) -> Iterator[Problem]:
    """Yield what is wrong with a scheduler that a spec or a request names, as path inside the value and message.

    Nothing is known, and nothing said, where Diffusers is not installed.

    Args:
        value: As `read_scheduler` takes it.
        own: The scheduler of the model; None where the model is not here.
    """
    try:
        value = from_cell(value)
        choice = read_scheduler(value)
    except ValueError as error:
        yield (), str(error)
        return
    known, source = list_schedulers(), read_scheduler_source(choice.name)
    path: FieldPath = ("name",) if isinstance(value, Mapping) else ()
    if source is None:
        if known:
            usual = "give a class, as EulerDiscreteScheduler, or a name, as Euler a or DPM++ 2M Karras"
            yield path, f"Diffusers has no {choice.name} ({hint_for(choice.name, [*known, *SOLVERS], usual)})"
        return
    written = value["name"] if isinstance(value, Mapping) else value
    subject = choice.name if choice.name in str(written) else f"{written} is {choice.name}, which"
    if own is not None and (said := _misfit(choice, own)):
        yield path, f"{subject} {said}"
        return
    model = settings_model(choice.name)
    try:
        model.model_validate(dict(choice.settings))
    except ValidationError as error:
        for at, said in explain(error, dict(choice.settings), model).items():
            implied = not isinstance(value, Mapping) or at[0] not in value
            yield (path, f"{subject} has no {at[0]}") if implied else (at, said)
    on = [name for name in _SIGMAS if name in source.settings and _is_set(name, choice, own)]
    if len(on) > 1:
        yield path, f"{subject} takes one of {' and '.join(on)} (set the other to false)"


@cache
def settings_model(name: str) -> type[UndocumentedModel]:
    """Return a model of the settings that a class of the installed Diffusers takes."""
    source = read_scheduler_source(name)
    fields: dict[str, Any] = {key: (_type_of(kind), None) for key, kind in source.settings.items()} if source else {}
    return create_model(name, __base__=UndocumentedModel, **fields)


def _misfit(choice: SchedulerChoice, own: OwnScheduler) -> str | None:
    """Say why a scheduler does not fit a model."""
    fitting = own.fitting()
    if choice.name not in fitting:
        hint = hint_for(choice.name, fitting, f"there are: {', '.join(fitting)}")
        return f"does not fit a model made for {own.name} ({hint})"
    if own.is_flow and _solves_flow(choice.name):
        lacking = [
            f"{name}: {'true' if wanted is True else wanted}"
            for name, wanted in _AS_FLOW.items()
            if choice.settings.get(name, own.value_of(name, None)) != wanted
        ]
        if lacking:
            return f"fits a model that predicts a flow with {' and '.join(lacking)} (add that)"
    return None


def _is_set(setting: str, choice: SchedulerChoice, own: OwnScheduler | None) -> bool:
    return bool(choice.settings.get(setting, own is not None and own.value_of(setting, False)))


def _solves_flow(name: str) -> bool:
    """Whether a solver of noise may solve a flow, by its settings."""
    source = read_scheduler_source(name)
    return source is not None and set(_AS_FLOW) <= set(source.settings)


def _type_of(written: ast.expr | None) -> Any:
    """Return the type that an annotation is written for; anything where that is none of the usual ones."""
    match written:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type_of(left) | _type_of(right)
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Attribute(attr="ndarray"):
            return list[Number]
        case ast.Subscript(value=ast.Name(id="list"), slice=element):
            return list[_type_of(element)]  # type: ignore[misc]  # made as the program runs
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=words)):
            return Literal[tuple(ast.literal_eval(word) for word in words)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=word):
            return Literal[ast.literal_eval(word)]
    return Any
