"""A model card: what one model takes, its licence and what runs it; and its JSON form for `run.json`.

What a card implies when it is silent is filled in while it is checked: the type of a parameter, the inputs of a task.
Not covered: reading files of cards (`cards`), checking a request's values (`constraints`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from abstractvision_batch.documents.messages import FieldProblems, explain
from abstractvision_batch.documents.strict_model import IN_RECORD, StrTuple, Text, UndocumentedModel
from abstractvision_batch.registry.backend_facts import FACTS, BackendFacts, OtherFacts
from abstractvision_batch.registry.output_size import OutputSize
from abstractvision_batch.registry.param_rule import STANDARD_PARAMS, ParamRule
from abstractvision_batch.types import TASKS, Task

#: What every model takes for a task, so that no card repeats it; and its inputs and outputs, as words.
_IMPLIED: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "text_to_image": (("prompt",), ("text",), ("image",)),
    "image_to_image": (("prompt", "image"), ("text", "image"), ("image",)),
    "text_to_video": (("prompt",), ("text",), ("video",)),
    "image_to_video": (("image",), ("image", "text_optional"), ("video",)),
    "multi_view_image": (("prompt",), ("text", "image_optional"), ("image[]",)),
}

#: Where a card is that is validated: in a file of cards, else in the record of a run.
IN_FILE = "file"

#: Fields that are left out of the JSON form where they are empty: cards of earlier versions did not have them.
_SELDOM = ("vocabulary", "example_prompt", "aliases")

Requires = dict[Literal["base_model_id", "backend"], Text]


class _SparseModel(UndocumentedModel):
    """A field that is written without a value is absent, if it may be."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        return {
            name: value
            for name, value in data.items()
            if value is not None or name not in fields or fields[name].is_required()
        }


class TaskCard(_SparseModel):
    """One task of a model; inputs and outputs are words such as `text`, `text_optional`, `image`, `image[]`."""

    inputs: StrTuple
    outputs: StrTuple
    params: dict[str, ParamRule] = Field(default_factory=dict)
    requires: Requires = Field(default_factory=dict)


class ModelCard(_SparseModel):
    """One model's entry in the registry."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"origin"})

    id: Text = Field(description="what a spec's `model:` says")
    provider: Text = "huggingface"
    license: Text = Field(description="the licence of the weights, as the hub spells it")
    gated: bool = False
    tasks: dict[Task, TaskCard] = Field(description=f"some of {', '.join(TASKS)}; {{}} for none")
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Per backend kind, what it needs to run the model, as it is written (`facts`); empty when none can."""
    notes: str = ""
    sources: StrTuple = ()
    requires: Requires = Field(default_factory=dict)
    """`base_model_id`: another card's model that must be there, as for a LoRA."""
    origin: str = ""
    """The file that the card came from, as messages show it."""
    vocabulary: StrTuple = ()
    """Every word that the model was trained on, in lower case; empty for a model that takes any text."""
    example_prompt: str = ""
    """A prompt that the model draws well."""
    aliases: StrTuple = ()
    """Other ids that specs may name the model by: those that it had before it moved."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        if isinstance(tasks := data.get("tasks"), dict):
            filled["tasks"] = {task: _filled_task(task, body) for task, body in tasks.items()}
        if isinstance(backends := data.get("backends"), dict):
            filled["backends"] = {kind: {} if needs is None else needs for kind, needs in backends.items()}
        return filled

    @field_validator("origin", mode="before")
    @classmethod
    def _check_origin(cls, origin: Any, info: ValidationInfo) -> Any:
        if info.context == IN_FILE:
            raise ValueError("is not written in a file: it is the file's name (remove it)")
        return origin

    @field_validator("backends")
    @classmethod
    def _check_facts(cls, backends: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        problems = []
        for kind, needs in backends.items():
            model = FACTS.get(kind, OtherFacts)
            try:
                model.model_validate(needs, extra="ignore" if info.context == IN_RECORD else None)
            except ValidationError as error:
                problems += [((kind, *path), what) for path, what in explain(error, needs, model).items()]
        if problems:
            raise FieldProblems(problems)
        return backends

    def facts(self, kind: str) -> BackendFacts:
        """Return what the card says of a backend; defaults where it says nothing."""
        return FACTS.get(kind, OtherFacts).model_validate(self.backends.get(kind, {}), extra="ignore")

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that the model never saw, in their order; none where it takes any text."""
        words = re.findall(r"\w+", prompt.lower())
        return list(dict.fromkeys(word for word in words if self.vocabulary and word not in self.vocabulary))

    def backends_for(self, task: str) -> tuple[str, ...]:
        """Return the kinds of backend that can run the task of this model, sorted.

        A backend runs the tasks it lists under `tasks`, else those it has a pipeline for, else all of the card's.
        """
        if task not in self.tasks:
            return ()
        return tuple(sorted(kind for kind, needs in self.backends.items() if task in _tasks_of(needs, self.tasks)))

    def output_size(self, kind: str, task: str) -> OutputSize | None:
        """Return how the size follows, if not simply from width and height; `inpaint` counts as a task."""
        rule = self.backends.get(kind, {}).get("output_size", {}).get(task)
        return None if rule is None else OutputSize.model_validate(rule, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON types, for `run.json`."""
        data = self.model_dump(mode="json")
        return {name: value for name, value in data.items() if value or name not in _SELDOM}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        """Return the card that `to_json` wrote; what a later version added is left out.

        Raises:
            ValueError: it is none.
        """
        return cls.model_validate(data, extra="ignore", context=IN_RECORD)


def _filled_task(task: Any, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    needed, inputs, outputs = _IMPLIED.get(task, ((), (), ()))
    filled = {**body, "inputs": body.get("inputs") or inputs, "outputs": body.get("outputs") or outputs}
    params = body.get("params") or {}
    if isinstance(params, dict):
        implied = {name: {"required": True} for name in needed} | {"seed": {"min": 0}}
        filled["params"] = {name: _filled_rule(name, rule) for name, rule in {**implied, **params}.items()}
    return filled


def _filled_rule(name: Any, rule: Any) -> Any:
    if rule is None:
        rule = {}
    if not isinstance(rule, dict) or rule.get("type") is not None:
        return rule
    bounded = "min" in rule or "max" in rule
    kind = STANDARD_PARAMS.get(name) or ("int" if "multiple_of" in rule else "number" if bounded else None)
    return {**rule, "type": kind}


def _tasks_of(needs: Mapping[str, Any], tasks: Mapping[Task, TaskCard]) -> set[str]:
    if "tasks" in needs:
        return set(needs["tasks"])
    if "pipelines" in needs:
        # "inpaint" is the pipeline for image_to_image requests that carry a mask.
        return {"image_to_image" if name == "inpaint" else name for name in needs["pipelines"]}
    return set(tasks)
