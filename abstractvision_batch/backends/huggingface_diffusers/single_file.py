"""A checkpoint, one file with a model's weights under their original names, to a Diffusers pipeline.

Configuration, tokenizers and what the file lacks come from a local folder; Diffusers would guess a hub repository from
the weights' names and fetch it.

Not covered: finding the two (`locate`).
"""

from __future__ import annotations

import pickle
from typing import Any

import diffusers
from diffusers.loaders.single_file_utils import SingleFileComponentError

from abstractvision_batch.backends.huggingface_diffusers.locate import DENOISERS, ModelFiles, has_decoder


def load_checkpoint(pipeline_class: Any, model: ModelFiles, *, dtype: Any, components: dict[str, Any]) -> Any:
    """Load a pipeline from a checkpoint; a file with the denoiser alone (Flux's) takes the rest from the folder.

    Raises:
        ValueError: the file is none, is cut short, or is of another model.
    """
    if not hasattr(pipeline_class, "from_single_file"):
        raise ValueError(f"{pipeline_class.__name__} cannot be loaded from one file")
    settings = {"dtype": dtype, "local_files_only": True}
    try:
        if model.checkpoint is None or has_decoder(model.checkpoint):
            return pipeline_class.from_single_file(
                str(model.checkpoint), config=str(model.folder), **settings, **components
            )
        name = next(name for name in DENOISERS if name in model.index)
        denoiser_class = getattr(diffusers, model.index[name][1])
        denoiser = denoiser_class.from_single_file(
            str(model.checkpoint), config=str(model.folder), subfolder=name, **settings
        )
    except (SingleFileComponentError, pickle.UnpicklingError) as exc:
        raise ValueError(str(exc)) from exc
    return pipeline_class.from_pretrained(str(model.folder), **settings, **components, **{name: denoiser})
