"""The seed canary: among a run's first pictures, two that differ in their seed alone are compared.

A server that does not know `seed` by the name that it is told makes one picture for all samples of a prompt, and its
rows would claim seeds that made nothing. Nothing is generated for this, so it costs nothing, also where pictures do;
a run without two such requests has nothing to compare, and no copies either.

Not covered: backends on this machine, which take their seed themselves; servers that say that they take none.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from abstractvision_batch.errors import SeedsIgnoredError
from abstractvision_batch.media.images import Rgb, decode_image, pixel_sha256, to_rgb_array
from abstractvision_batch.types import GeneratedAsset

#: What two requests have in common that differ in their seed alone.
_SHARED = (
    "prompt", "negative_prompt", "steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength",
    "input_image", "mask_image", "params_json",
)  # fmt: skip
#: Requests that are remembered until two can be compared.
_REMEMBERED = 512
_THUMBNAIL = (16, 16)
#: Mean difference of two thumbnails, of 255, above which they are of two pictures, whatever rounding did.
_OTHER_PICTURE = 24.0


@dataclass(frozen=True, slots=True)
class _Seen:
    request_id: str
    seed: int
    pixels: str
    thumbnail: Rgb | None
    """None of a video."""


class SeedCanary:
    """Watches the pictures of one worker until it has seen that seeds act."""

    def __init__(self, *, enabled: bool) -> None:
        self._watching = enabled
        self._seen: dict[tuple[Any, ...], list[_Seen]] = {}
        self._lock = threading.Lock()  # shards may run side by side

    def look(self, row: Mapping[str, Any], item: object) -> None:
        """Compare what was made of a row with what was made before.

        Raises:
            SeedsIgnoredError: another seed gave the same pixels, or the same seed another picture.
        """
        if not self._watching or not _claims_seed(row, item):
            return
        assert isinstance(item, GeneratedAsset)
        made = _remember(row, item)
        with self._lock:
            others = self._seen.setdefault(tuple(row[name] for name in _SHARED), [])
            for other in others:
                if other.seed != made.seed and other.pixels == made.pixels:
                    raise SeedsIgnoredError(_explain(other, made, "give the same pixels"))
                if other.seed == made.seed and _is_other_picture(other, made):
                    raise SeedsIgnoredError(_explain(other, made, "give two pictures"))
            if any(other.seed != made.seed for other in others) or len(self._seen) > _REMEMBERED:
                self._watching = False
                self._seen.clear()
            else:
                others.append(made)


def _claims_seed(row: Mapping[str, Any], item: object) -> bool:
    """An edit of strength 0 is its input, whatever the seed."""
    told = isinstance(item, GeneratedAsset) and item.metadata.get("reproducibility") == "seeded-remote"
    return told and row["strength"] != 0


def _remember(row: Mapping[str, Any], asset: GeneratedAsset) -> _Seen:
    if asset.media_type == "video":
        return _Seen(row["request_id"], row["seed"], hashlib.sha256(asset.data).hexdigest(), None)
    image = decode_image(asset.data)
    small = to_rgb_array(image.convert("RGB").resize(_THUMBNAIL, Image.Resampling.BOX))
    return _Seen(row["request_id"], row["seed"], pixel_sha256(image), small)


def _is_other_picture(one: _Seen, other: _Seen) -> bool:
    if one.thumbnail is None or other.thumbnail is None:
        return False
    return float(np.abs(one.thumbnail.astype(int) - other.thumbnail.astype(int)).mean()) > _OTHER_PICTURE


def _explain(one: _Seen, other: _Seen, what: str) -> str:
    same = one.seed == other.seed
    seeds = f"seed {one.seed} of two equal requests" if same else f"seeds {one.seed} and {other.seed} of one request"
    return (
        f"seed canary: {seeds} {what} ({one.request_id}, {other.request_id}): the server ignores seeds "
        "(say what it is: backend.dialect, or what it calls them: backend.field_names.seed; "
        "execution.seed_canary=false takes the pictures as they are)"
    )
