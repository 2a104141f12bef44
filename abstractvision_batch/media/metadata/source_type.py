"""The IPTC digital source type of a generation: whether a trained model made it, or changed what was there.

The terms and what they mean: https://cv.iptc.org/newscodes/digitalsourcetype/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

#: "Created using Generative AI".
TRAINED = f"{_VOCABULARY}trainedAlgorithmicMedia"
#: "Edited using Generative AI": augmented, corrected or enhanced by a model, as by inpainting or outpainting.
EDITED = f"{_VOCABULARY}compositeWithTrainedAlgorithmicMedia"
#: "Pure algorithmic media": made by a formula, with no model trained on samples.
ALGORITHMIC = f"{_VOCABULARY}algorithmicMedia"


def digital_source_type(generation: Mapping[str, Any]) -> str:
    """The term for what was made.

    An image_to_image is an edit, unless a strength of 1 without a mask kept nothing of the input. A video or new views
    of a picture show what the picture did not: they are created.
    """
    if generation.get("backend") == "procedural":
        return ALGORITHMIC
    if generation.get("task") != "image_to_image":
        return TRAINED
    keeps_nothing = generation.get("strength") == 1 and not generation.get("mask_image")
    return TRAINED if keeps_nothing else EDITED
