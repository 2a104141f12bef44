"""A row of the plan written into its file: everything that a repeat has in common, and nothing that it has not.

A file's name holds a hash of its bytes, so no time, host, worker or attempt goes in. Nor do the prompt dataset's own
columns: they are the manifest's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from abstractvision_batch.media.frame_rates import tidy_fps
from abstractvision_batch.media.metadata.embed import Embedded, embed_generation
from abstractvision_batch.media.metadata.generation import describe_generation
from abstractvision_batch.types import GeneratedAsset

_COLUMNS = (
    *("request_id", "prompt_id", "sample_index", "task", "model", "backend", "prompt", "negative_prompt", "seed"),
    *("steps", "guidance_scale", "num_frames", "fps", "strength", "input_image", "mask_image"),
)


def embed_row(
    data: bytes, row: Mapping[str, Any], asset: GeneratedAsset, columns: Mapping[str, Any], *, run: str
) -> Embedded:
    """Write what made a file into it.

    Args:
        data: the encoded file.
        row: of the plan.
        asset: what the backend answered with.
        columns: what is known of the encoded file.
        run: the job's name.
    """
    extra = json.loads(row["params_json"] or "{}")
    asked = {"run": run, "extra": extra, **{name: row[name] for name in _COLUMNS}}
    asked["fps"] = row["fps"] and tidy_fps(row["fps"])
    size = {"width": columns["media_width"], "height": columns["media_height"]}
    return embed_generation(data, describe_generation(asked, asset.metadata, **size))
