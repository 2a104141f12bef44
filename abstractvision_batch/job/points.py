"""Matrix × zip × draw, without what is skipped: the parameter sets that every prompt is generated with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.job.draw import draw_points
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.other_params import column_type, to_column
from abstractvision_batch.job.param_names import STANDARD, extra_key, is_other
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.registry.model_card import ModelCard

#: Parameters that stand in columns of their own; `seed` and `negative_prompt` may differ inside a batch.
PARAM_COLUMNS = ("steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength")
_FLOATS = frozenset({"guidance_scale", "strength"})
WHOLE_PARAMS = frozenset({"steps", "width", "height", "num_frames", "seed"})
_POINTS_AT_ONCE = 50_000


def find_axes(spec: JobSpec) -> dict[str, FieldPath]:
    """Return the parameters that vary from request to request, each with the field that says so."""
    axes: dict[str, FieldPath] = {name: ("matrix", name) for name in spec.matrix}
    axes |= {name: ("zip", name) for name in spec.zip}
    axes |= {name: ("draw", name) for name in (spec.draw.parameters if spec.draw else ())}
    return axes | ({"seed": ("seeds",)} if spec.seeds else {})


def count_points(spec: JobSpec) -> int:
    """Return how many points there are, those that are skipped included."""
    points = math.prod(len(values) for values in spec.matrix.values())
    points *= max((len(values) for values in spec.zip.values()), default=1)
    return points * (spec.draw.n if spec.draw else 1)


def expand_points(spec: JobSpec, card: ModelCard, of: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Every combination of `matrix`, the first name outermost, times the places of `zip`, times the draws of `draw`.

    `[{}]` where there is none of them.

    Args:
        spec: The spec; its lists are checked.
        card: Its model's card.
        of: Parameters to look at alone, where no point is skipped.

    Raises:
        SpecError: `skip` is not a condition on parameters.
    """
    names = set(find_axes(spec)) if of is None or spec.skip is not None else {*of}
    matrix, zipped = (
        {name: values for name, values in lists.items() if name in names} for lists in (spec.matrix, spec.zip)
    )
    drawn = _drawn(spec) if spec.draw and names & set(spec.draw.parameters) else [{}]
    products = itertools.product(*matrix.values())
    places = list(zip(*zipped.values(), strict=True)) or [()]
    points = [
        {**dict(zip(matrix, product, strict=True)), **dict(zip(zipped, place, strict=True)), **draw}
        for product in products
        for place in places
        for draw in drawn
    ]
    return points if spec.skip is None else _without_skipped(spec, card, points)


def names_in_skip(spec: JobSpec, card: ModelCard) -> set[str]:
    """Return the parameters that `skip` names.

    Raises:
        SpecError: it is not a condition on parameters.
    """
    if spec.skip is None:
        return set()
    from abstractvision_batch.documents.conditions import find_columns

    return {name for _, name in find_columns(spec.skip, list(_conditioned(spec, card)), "parameter")}


def _conditioned(spec: JobSpec, card: ModelCard) -> dict[str, Any]:
    """Return the parameters that a condition may name, each with its value where points have none."""
    axes = {name for name, path in find_axes(spec).items() if path != ("seeds",)}
    extra = extra_params(spec, card)
    base = base_params(spec, card) | {f"extra.{name}": value for name, value in extra.items()}
    base |= {name: extra.get(extra_key(name)) for name in axes if is_other(name)}
    return {name: value for name, value in base.items() if name in axes or (value is not None and name != "seed")}


def _drawn(spec: JobSpec) -> list[dict[str, Any]]:
    assert spec.draw is not None
    points = draw_points(spec.draw, spec.params.seed)
    return [{name: float(v) if name in _FLOATS else v for name, v in point.items()} for point in points]


def _without_skipped(spec: JobSpec, card: ModelCard, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    import pyarrow as pa

    from abstractvision_batch.documents.conditions import meet_condition

    assert spec.skip is not None
    base = _conditioned(spec, card)
    kept: list[dict[str, Any]] = []
    for start in range(0, len(points), _POINTS_AT_ONCE):
        some = points[start : start + _POINTS_AT_ONCE]
        columns = {}
        for name, value in base.items():
            values = [point.get(name, value) for point in some]
            type_ = _type_of(spec, card, name, value)
            columns[name] = pa.array([to_column(one, type_) for one in values], type_)
        met = meet_condition(pa.table(columns), spec.skip, noun="parameter")
        kept += (dict(point) for point, skipped in zip(some, met, strict=True) if not skipped)
    return kept


def axis_types(spec: JobSpec, card: ModelCard) -> dict[str, str]:
    """Return the Arrow type of the column of each of the other parameters that vary from point to point."""
    lists = {**spec.matrix, **spec.zip}
    for name, drawn in spec.draw.parameters.items() if spec.draw else ():
        lists[name] = [0.5] if drawn.choice is None and drawn.int is None else drawn.values
    return {name: column_type(card, spec, name, values) for name, values in lists.items() if is_other(name)}


def _type_of(spec: JobSpec, card: ModelCard, name: str, value: Any) -> str:
    if name not in STANDARD:
        return axis_types(spec, card).get(name) or column_type(card, spec, name, [value])
    if name == "negative_prompt":
        return "string"
    return "float64" if name in _FLOATS or name == "fps" else "int64"


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
