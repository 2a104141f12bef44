"""Tools for AbstractCore's agents: each of the five tasks as a function that returns references to artifacts.

Images come in as references or as base64, never as paths: an agent does not get to read the host's files.
Not covered: `llm.vision` (`abstractcore_plugin`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol, TypeVar

from abstractvision_batch.artifacts import MediaStore, get_artifact_id, is_artifact_ref
from abstractvision_batch.errors import BackendNotConfiguredError, GenerationError, OptionalDependencyMissingError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.types import Task
from abstractvision_batch.vision_manager import Output, VisionManager

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ToolDecorator(Protocol):
    """`abstractcore.tool`, which describes a function to an agent."""

    def __call__(
        self, *, name: str, description: str, tags: list[str], when_to_use: str
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that leaves the function's signature as it is."""


#: What agents get where neither they nor the model's card say anything.
DEFAULT_STEPS = 10


def make_vision_tools(
    *,
    vision_manager: VisionManager,
    model_id: str,
    registry: VisionModelCapabilitiesRegistry | None = None,
) -> list[Callable[..., Any]]:
    """Make AbstractCore tools over a manager with a store, checked against the card of `model_id`.

    What an agent leaves out takes the card's default, steps else 10.

    Raises:
        OptionalDependencyMissingError: AbstractCore is not installed.
        BackendNotConfiguredError: the manager has no store.
        UnknownModelError: no card has this id.
    """
    tool = _require_abstractcore_tool()
    if vision_manager.store is None:
        raise BackendNotConfiguredError("make_vision_tools: the manager has no store (pass VisionManager(store=...))")
    store: MediaStore = vision_manager.store
    cards = registry or vision_manager.registry or VisionModelCapabilitiesRegistry()
    card = cards.card(model_id)
    manager = replace(vision_manager, model_id=model_id, registry=cards)

    def params_of(task: Task, **given: Any) -> dict[str, Any]:
        cards.require_support(model_id, task)
        rules = card.tasks[task].params
        defaults = {"steps": DEFAULT_STEPS} if "steps" in rules and rules["steps"].supported else {}
        defaults.update(default_params(card, task))
        chosen = {name: defaults.get(name) if value is None else value for name, value in given.items()}
        return {name: value for name, value in chosen.items() if value is not None}

    @tool(
        name="vision_text_to_image",
        description="Generate an image from a text prompt and return an artifact ref.",
        tags=["vision", "generate", "image"],
        when_to_use="Use when a new image is wanted.",
    )
    def vision_text_to_image(
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        params = params_of(
            "text_to_image",
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return _ref(manager.generate_image(prompt, **params))

    @tool(
        name="vision_image_to_image",
        description="Change an image as a prompt says, optionally inside a mask, and return an artifact ref.",
        tags=["vision", "edit", "image"],
        when_to_use="Use when an existing image is to be changed.",
    )
    def vision_image_to_image(
        prompt: str,
        image_artifact: dict[str, Any] | None = None,
        image_b64: str | None = None,
        mask_artifact: dict[str, Any] | None = None,
        mask_b64: str | None = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        image = _require_input(store, "image", image_artifact, image_b64)
        params = params_of(
            "image_to_image",
            mask=_input(store, "mask", mask_artifact, mask_b64),
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return _ref(manager.edit_image(prompt, image, **params))

    @tool(
        name="vision_multi_view_image",
        description="Generate several views of one subject and return their artifact refs.",
        tags=["vision", "generate", "image", "multi_view"],
        when_to_use="Use when one subject is wanted from several angles.",
    )
    def vision_multi_view_image(
        prompt: str,
        reference_image_artifact: dict[str, Any] | None = None,
        reference_image_b64: str | None = None,
        angles: list[str] | None = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> list[dict[str, Any]]:
        params = params_of(
            "multi_view_image",
            reference_image=_input(store, "reference_image", reference_image_artifact, reference_image_b64),
            angles=angles,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return [_ref(view) for view in manager.generate_angles(prompt, **params)]

    @tool(
        name="vision_text_to_video",
        description="Generate a video from a text prompt and return an artifact ref.",
        tags=["vision", "generate", "video"],
        when_to_use="Use when a short video is wanted.",
    )
    def vision_text_to_video(
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        params = params_of(
            "text_to_video",
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            fps=fps,
            num_frames=num_frames,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return _ref(manager.generate_video(prompt, **params))

    @tool(
        name="vision_image_to_video",
        description="Generate a video that starts from an image and return an artifact ref.",
        tags=["vision", "generate", "video"],
        when_to_use="Use when an image is to be set in motion.",
    )
    def vision_image_to_video(
        image_artifact: dict[str, Any] | None = None,
        image_b64: str | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        image = _require_input(store, "image", image_artifact, image_b64)
        params = params_of(
            "image_to_video",
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            fps=fps,
            num_frames=num_frames,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
        return _ref(manager.image_to_video(image, **params))

    return [
        vision_text_to_image,
        vision_image_to_image,
        vision_multi_view_image,
        vision_text_to_video,
        vision_image_to_video,
    ]


def _require_abstractcore_tool() -> ToolDecorator:
    try:
        decorator: ToolDecorator = import_module("abstractcore").tool
    except (ImportError, AttributeError) as exc:
        raise OptionalDependencyMissingError("AbstractCore's tools: not installed (pip install abstractcore)") from exc
    return decorator


def _require_input(store: MediaStore, name: str, artifact: dict[str, Any] | None, b64: str | None) -> bytes:
    data = _input(store, name, artifact, b64)
    if not data:
        raise GenerationError(f"{name}: missing (pass {name}_artifact or {name}_b64)")
    return data


def _input(store: MediaStore, name: str, artifact: dict[str, Any] | None, b64: str | None) -> bytes | None:
    if artifact is not None:
        if not is_artifact_ref(artifact):
            raise GenerationError(f'{name}_artifact: not a reference to an artifact (write {{"$artifact": id}})')
        return store.load_bytes(get_artifact_id(artifact))
    return None if b64 is None else _decode_base64(name, b64)


def _decode_base64(name: str, text: str) -> bytes:
    """Decode base64 or a `data:` URL, with or without padding and line breaks."""
    payload = text.partition(",")[2] if text.lstrip().startswith("data:") else text
    payload = "".join(payload.split()).rstrip("=")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except ValueError as exc:
        raise GenerationError(f"{name}_b64: {len(text)} characters are not base64 ({exc})") from exc


def _ref(output: Output) -> dict[str, Any]:
    if not isinstance(output, dict):
        raise BackendNotConfiguredError("vision tools: the manager lost its store")
    return output
