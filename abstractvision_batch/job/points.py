"""Matrix × zip: the parameter sets that every prompt is generated with, in the order the spec writes them."""

from __future__ import annotations

import itertools
from typing import Any

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.registry.model_card import ModelCard

#: Parameters that stand in columns of their own; `seed` and `negative_prompt` may differ inside a batch.
PARAM_COLUMNS = ("steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength")
_FLOATS = frozenset({"guidance_scale", "strength"})


def find_axes(spec: JobSpec) -> dict[str, FieldPath]:
    """Return the parameters that vary from request to request, each with the field that says so."""
    axes: dict[str, FieldPath] = {name: ("matrix", name) for name in spec.matrix}
    axes |= {name: ("zip", name) for name in spec.zip}
    return axes | ({"seed": ("seeds",)} if spec.seeds else {})


def expand_points(spec: JobSpec) -> list[dict[str, Any]]:
    """Every combination of `matrix`, the first name outermost, times the places of `zip`; `[{}]` where neither is."""
    products = itertools.product(*spec.matrix.values())
    places = list(zip(*spec.zip.values(), strict=True)) or [()]
    return [
        {**dict(zip(spec.matrix, product, strict=True)), **dict(zip(spec.zip, place, strict=True))}
        for product in products
        for place in places
    ]


def base_params(spec: JobSpec, card: ModelCard) -> dict[str, Any]:
    """What a request has where neither its point nor its row says otherwise: the spec's, else the card's default."""
    defaults = default_params(card, spec.task)
    names = (*PARAM_COLUMNS, "negative_prompt")
    params = {name: defaults.get(name) for name in names}
    params.update({name: value for name in names if (value := getattr(spec.params, name)) is not None})
    params["seed"] = spec.params.seed if "seed" in spec.params.model_fields_set else defaults.get("seed", 0)
    return {name: float(v) if name in _FLOATS and v is not None else v for name, v in params.items()}


def extra_params(spec: JobSpec, card: ModelCard) -> dict[str, Any]:
    """`extra`: the spec's, and the card's defaults of parameters that have no column of their own."""
    columns = {*PARAM_COLUMNS, "negative_prompt", "seed", "prompt", "image", "mask", "reference_image"}
    defaults = {name: value for name, value in default_params(card, spec.task).items() if name not in columns}
    return {**defaults, **spec.params.extra}
