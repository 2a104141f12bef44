"""Which model can do what: the older library's registry API over the model cards.

Unlike in the older registry, a task counts as supported only when something can run it: a backend of the card, and
whatever the card requires. Not covered: checking parameter values (`registry.constraints`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abstractvision_batch.errors import CapabilityNotSupportedError, UnknownModelError
from abstractvision_batch.registry.capabilities_json import validate_capabilities_json
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.model_names import suggest_model
from abstractvision_batch.text.suggestions import did_you_mean
from abstractvision_batch.types import TASKS, Task

__all__ = ["VisionModelCapabilitiesRegistry", "VisionModelSpec", "VisionTaskSpec", "validate_capabilities_json"]

SCHEMA_VERSION = "2.0"

TASK_DESCRIPTIONS = {
    "text_to_image": "Generate an image from a prompt.",
    "image_to_image": "Change an image as a prompt says, optionally inside a mask.",
    "text_to_video": "Generate a video from a prompt.",
    "image_to_video": "Generate a video from an image and an optional prompt.",
    "multi_view_image": "Generate several views of one subject.",
}


@dataclass(frozen=True)
class VisionTaskSpec:
    """One task of a model; `params` maps a name to its rules (`required`, `default`, `min`, ...)."""

    task: str
    inputs: list[str]
    outputs: list[str]
    params: dict[str, dict[str, Any]]
    requires: dict[str, Any] | None = None


@dataclass(frozen=True)
class VisionModelSpec:
    """One model and its tasks."""

    model_id: str
    provider: str
    license: str
    tasks: dict[str, VisionTaskSpec]
    notes: str = ""
    gated: bool = field(default=False, kw_only=True)


class VisionModelCapabilitiesRegistry:
    """The model cards, by model id.

    Args:
        asset_path: a card file or folder to use *instead of* the packaged cards.
        paths: card files or folders to use besides; their cards win.
    """

    def __init__(self, *, asset_path: str | Path | None = None, paths: Sequence[str | Path] = ()) -> None:
        extra = [Path(path) for path in paths]
        if asset_path is None:
            self._cards = load_cards(extra)
        else:
            self._cards = load_cards([Path(asset_path), *extra], packaged=False)

    def schema_version(self) -> str:
        """Version of the card format."""
        return SCHEMA_VERSION

    def list_models(self) -> list[str]:
        """Every model id, sorted."""
        return sorted(self._cards)

    def list_tasks(self) -> list[str]:
        """Every task there is, sorted."""
        return sorted(TASKS)

    def get_task(self, task: str) -> dict[str, Any]:
        """What is known of a task; empty for an unknown one."""
        return {"description": TASK_DESCRIPTIONS[task]} if task in TASK_DESCRIPTIONS else {}

    def card(self, model_id: str) -> ModelCard:
        """The model's card.

        Raises:
            UnknownModelError: no card has this id.
        """
        card = self._cards.find(model_id)
        if card is None:
            guess = suggest_model(str(model_id), self._cards)
            hint = f"did you mean {guess}?" if guess else "`avbatch models` lists those there are"
            raise UnknownModelError(f"{model_id}: no model card has this id ({hint})")
        return card

    def find(self, model_id: str) -> ModelCard | None:
        """Return the card of an id or an alias; None where there is none."""
        return self._cards.find(model_id)

    def get(self, model_id: str) -> VisionModelSpec:
        """The model and its tasks.

        Raises:
            UnknownModelError: no card has this id.
        """
        card = self.card(model_id)
        return VisionModelSpec(
            model_id=card.id,
            provider=card.provider,
            license=card.license,
            tasks={name: _task_spec(card, name) for name in card.tasks},
            notes=card.notes,
            gated=card.gated,
        )

    def supports(self, model_id: str, task: str) -> bool:
        """Whether `require_support` would pass; False for an unknown model."""
        card = self.find(model_id)
        return card is not None and self._missing(card, task) is None

    def require_support(self, model_id: str, task: str) -> None:
        """Pass only if the card has the task, a backend of the card runs it, and what it requires is there.

        Raises:
            UnknownModelError: no card has this id.
            CapabilityNotSupportedError: the card does not have the task, or nothing can run it.
        """
        missing = self._missing(self.card(model_id), task)
        if missing:
            raise CapabilityNotSupportedError(f"{model_id}: {missing}")

    def models_for_task(self, task: str) -> list[str]:
        """Ids of the models that support a task, sorted."""
        return sorted(model_id for model_id in self._cards if self.supports(model_id, task))

    def iter_task_specs(self, model_id: str) -> Iterator[VisionTaskSpec]:
        """The model's tasks, one by one.

        Raises:
            UnknownModelError: no card has this id.
        """
        yield from self.get(model_id).tasks.values()

    def _missing(self, card: ModelCard, task: str) -> str | None:
        """Why the model cannot do the task, or None."""
        if task not in card.tasks:
            guess = did_you_mean(task, TASKS) if task not in TASKS else None
            hint = f"did you mean {guess}?" if guess else f"it has: {', '.join(card.tasks) or 'none'}"
            return f"the model has no task {task} ({hint}; {card.origin})"
        runners = card.backends_for(task)
        requires = {**card.requires, **card.tasks[task].requires}
        if not runners:
            return f"no backend can run {task} of this model ({card.notes or card.origin})"
        if requires.get("backend", runners[0]) not in runners:
            return f"{task} of this model requires backend {requires['backend']}, which cannot run it ({card.origin})"
        base = requires.get("base_model_id")
        if base is not None and (base not in self._cards or not self._cards[base].backends):
            return f"{task} of this model requires {base}, which nothing can run ({card.origin})"
        return None


def _task_spec(card: ModelCard, name: Task) -> VisionTaskSpec:
    task = card.tasks[name]
    return VisionTaskSpec(
        task=name,
        inputs=list(task.inputs),
        outputs=list(task.outputs),
        params={name: rule.to_json() for name, rule in task.params.items()},
        requires={str(key): value for key, value in (card.requires | task.requires).items()} or None,
    )
