"""One image or video now: a model, a `backend` section as in a job spec, and `VisionManager`.

What a call leaves out takes the card's default, as in a batch. A model without a card goes unchecked: the backend
judges it. Not covered: many requests (`run`), where outputs go (the caller).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from abstractvision_batch.artifacts import MediaStore
from abstractvision_batch.backends.base_backend import ProgressCallback
from abstractvision_batch.backends.from_environment import Target
from abstractvision_batch.backends.table import create_backend
from abstractvision_batch.errors import SpecError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.text.suggestions import foreign_name_of
from abstractvision_batch.types import TASK_OF_REQUEST, Task
from abstractvision_batch.vision_manager import Output, VisionManager


def open_manager(
    target: Target, registry: VisionModelCapabilitiesRegistry, store: MediaStore | None = None
) -> VisionManager:
    """Make the manager; nothing is loaded yet. Whoever opens it closes `manager.backend`.

    Raises:
        SpecError: OpenAI's own server is named without a key.
        OptionalDependencyMissingError: the backend's extra is not installed.
    """
    if target.backend.lacks_key:
        raise SpecError(f"{target.backend.server_url}: this server needs a key (export OPENAI_API_KEY=…)")
    # Which card calls are checked against is one thing, what the backend needs to run its model another.
    own = registry.card(target.model) if target.model is not None and target.model in registry.list_models() else None
    backend = create_backend(target.backend, card=own, model=target.model or "")
    return VisionManager(backend, store, target.card.id if target.card else None, registry)


def generate(
    manager: VisionManager,
    target: Target,
    task: Task,
    params: Mapping[str, Any],
    *,
    on_step: ProgressCallback | None = None,
) -> list[Output]:
    """Generate once: one output, or one per angle.

    Args:
        manager: of the target.
        target: what generates.
        task: what to generate.
        params: the request's fields, images as encoded bytes (`image` is also multi_view_image's reference); any other
            name goes into its `extra`.
        on_step: called after each step.

    Raises:
        SpecError: the backend does not run this task of its model, or a parameter has another tool's name.
        AbstractVisionError: whatever else is wrong, before or while generating.
    """
    _check_backend(target, task)
    if manager.backend is not None:
        manager.backend.check_ready()
    known = {field.name for request, of in TASK_OF_REQUEST.items() if of == task for field in fields(request)}
    values = dict(params)
    if task == "multi_view_image" and "image" in values:
        values["reference_image"] = values.pop("image")
    extra = dict(values.pop("extra", None) or {})
    extra |= {name: values.pop(name) for name in list(values) if name not in known}
    for name in extra:
        if name not in known and (ours := foreign_name_of(name, sorted(known))) is not None:
            raise SpecError(f"{name}: is no parameter of {task} (write {ours})")
    if target.card is not None and task in target.card.tasks:
        sides = {"width", "height"}
        one_side = "image" in params and len(sides & {name for name in values if values[name] is not None}) == 1
        for name, default in default_params(target.card, task).items():
            if one_side and name in sides:  # it follows from the picture
                continue
            if name not in extra and values.get(name) is None:
                (values if name in known else extra)[name] = default
    values["extra"] = extra
    if task == "multi_view_image":
        return manager.generate_angles(**values)
    calls: dict[Task, Callable[..., Output]] = {
        "text_to_image": manager.generate_image,
        "image_to_image": manager.edit_image,
        "text_to_video": manager.generate_video,
        "image_to_video": manager.image_to_video,
    }
    for name in ("prompt", "image"):  # positional in some of them; what is missing is the request's to say
        if name in known:
            values.setdefault(name, None)
    return [calls[task](progress_callback=on_step, **values)]


def _check_backend(target: Target, task: Task) -> None:
    """Refuse a task that the backend does not run of its model."""
    card = target.card
    if card is not None and card.id == target.model and (said := target.backend.refuse_task(card, task)):
        raise SpecError(said)
