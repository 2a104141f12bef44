"""The records of a model card, and their JSON form for `run.json`.

Not covered: reading YAML (`card_file`), which cards there are (`cards`), checking a value (`constraints`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from abstractvision_batch.registry.output_size import OutputSize

#: What a parameter's value is: `int` and `number` exclude booleans; `image` is a file reference or encoded bytes.
PARAM_TYPES = ("int", "number", "bool", "string", "image", "list")

STANDARD_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "string",
        "negative_prompt": "string",
        "image": "image",
        "mask": "image",
        "reference_image": "image",
        "angles": "list",
        "width": "int",
        "height": "int",
        "num_frames": "int",
        "fps": "number",
        "steps": "int",
        "guidance_scale": "number",
        "strength": "number",
        "seed": "int",
    }
)
"""Types of the parameters that mean the same for every model; a card gives the type of any other that it declares."""


@dataclass(frozen=True, slots=True)
class ParamRule:
    """What one parameter of one task may be. `None` in a field means no such rule."""

    required: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    multiple_of: int | None = None
    remainder: int = 0
    """With `multiple_of`: values are `multiple_of * k + remainder` (Wan's num_frames are 4k + 1)."""
    enum: tuple[Any, ...] | None = None
    const: Any = None
    supported: bool = True
    """False: the model's pipeline takes the parameter and ignores it, or has none, so setting it is an error."""
    description: str = ""
    type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Every rule that is not at its default; `required` always, as the older registry had it."""
        written = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.enum is not None:
            written["enum"] = list(self.enum)
        return {"required": self.required, **written}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParamRule:
        """The inverse of `to_json`; what a later version added is left out."""
        enum = data.get("enum")
        own = {name: data[name] for name in (field.name for field in fields(cls)) if name in data}
        return cls(**{**own, "enum": None if enum is None else tuple(enum)})


@dataclass(frozen=True, slots=True)
class TaskCard:
    """One task of a model; inputs and outputs are words such as `text`, `text_optional`, `image`, `image[]`."""

    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[str, ParamRule]
    requires: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "params": {name: rule.to_json() for name, rule in self.params.items()},
            "requires": dict(self.requires),
        }


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model's entry in the registry."""

    id: str
    provider: str
    license: str
    gated: bool
    tasks: dict[str, TaskCard]
    backends: dict[str, dict[str, Any]]
    """Per backend kind, what it needs to run the model; empty when none of the backends can."""
    notes: str = ""
    sources: tuple[str, ...] = ()
    requires: dict[str, Any] = field(default_factory=dict)
    """`base_model_id`: another card's model that must be there, as for a LoRA."""
    origin: str = ""
    """The file that the card came from, as messages show it."""
    vocabulary: tuple[str, ...] = ()
    """Every word that the model was trained on, in lower case; empty for a model that takes any text."""
    example_prompt: str = ""
    """A prompt that the model draws well."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that the model never saw, in their order; none where it takes any text."""
        words = re.findall(r"\w+", prompt.lower())
        return list(dict.fromkeys(word for word in words if self.vocabulary and word not in self.vocabulary))

    def backends_for(self, task: str) -> tuple[str, ...]:
        """Kinds of backend that can run the task of this model, sorted.

        A backend runs the tasks it lists under `tasks`, else those it has a pipeline for, else all of the card's.
        """
        if task not in self.tasks:
            return ()
        return tuple(sorted(kind for kind, needs in self.backends.items() if task in _tasks_of(needs, self.tasks)))

    def output_size(self, kind: str, task: str) -> OutputSize | None:
        """How the size follows with a backend of `kind`, if not simply from width and height; `inpaint` is a task."""
        rule = self.backends.get(kind, {}).get("output_size", {}).get(task)
        return None if rule is None else OutputSize.from_card(rule)

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for `run.json`."""
        return {
            "id": self.id,
            "provider": self.provider,
            "license": self.license,
            "gated": self.gated,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "backends": {kind: dict(needs) for kind, needs in self.backends.items()},
            "notes": self.notes,
            "sources": list(self.sources),
            "requires": dict(self.requires),
            "origin": self.origin,
            **({"vocabulary": list(self.vocabulary)} if self.vocabulary else {}),
            **({"example_prompt": self.example_prompt} if self.example_prompt else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        """The inverse of `to_json`; what a later version added is left out."""
        tasks = {
            name: TaskCard(
                task=name,
                inputs=tuple(task["inputs"]),
                outputs=tuple(task["outputs"]),
                params={param: ParamRule.from_json(rule) for param, rule in task["params"].items()},
                requires=dict(task["requires"]),
            )
            for name, task in data["tasks"].items()
        }
        backends = {kind: dict(needs) for kind, needs in data["backends"].items()}
        own = {name: data[name] for name in (field.name for field in fields(cls)) if name in data}
        lists = {"sources": tuple(data["sources"]), "vocabulary": tuple(data.get("vocabulary", ()))}
        return cls(**{**own, **lists, "tasks": tasks, "backends": backends})


def _tasks_of(needs: Mapping[str, Any], tasks: Mapping[str, TaskCard]) -> set[str]:
    if "tasks" in needs:
        return set(needs["tasks"])
    if "pipelines" in needs:
        # "inpaint" is the pipeline for image_to_image requests that carry a mask.
        return {"image_to_image" if name == "inpaint" else name for name in needs["pipelines"]}
    return set(tasks)
