"""multi_view_image as edits of one reference picture: one edit per angle, all with one seed.

Not covered: making the reference picture where a request has none (`backend`).
"""

from __future__ import annotations

from abstractvision_batch.types import ImageEditRequest, MultiAngleRequest

_VIEWS = {
    "front": "front view",
    "three_quarter": "front-right quarter view",
    "side": "right side view",
    "right": "right side view",
    "left": "left side view",
    "back": "back view",
}


def plan_views(request: MultiAngleRequest, reference: bytes, *, seed: int, trained: bool) -> list[ImageEditRequest]:
    """Return one edit of `reference` per angle.

    Args:
        request: What to show.
        reference: The picture to turn, an encoded image.
        seed: One seed for every view, so that they differ in the angle alone.
        trained: Whether an adapter trained on camera angles acts; it wants its own words.
    """
    return [
        ImageEditRequest(
            prompt=_view_prompt(request.prompt, angle, trained),
            image=reference,
            negative_prompt=request.negative_prompt,
            seed=seed,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            extra=request.extra,
            width=request.width,
            height=request.height,
        )
        for angle in request.angles
    ]


def _view_prompt(prompt: str, angle: str, trained: bool) -> str:
    words = angle.replace("_", " ").strip()
    view = _VIEWS.get(angle, words if words.endswith(("view", "shot")) else f"{words} view")
    if trained:  # the wording of the multiple-angles LoRA: direction, elevation, distance
        return f"<sks> {view} eye-level shot medium shot {prompt}".strip()
    return f"{prompt}, {view}" if prompt else view
