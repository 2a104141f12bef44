"""Checks a job spec against its model's card, before anything is loaded or generated.

Not covered: what only the prompt dataset can tell (its columns, per-row values, input images): the plan checks that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from abstractvision_batch.documents.messages import explain
from abstractvision_batch.documents.positions import FieldPath, show
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.draw import Distribution, DrawSpec, draw_points
from abstractvision_batch.job.fields import MAX_SEED
from abstractvision_batch.job.model import JobSpec, Params
from abstractvision_batch.job.other_params import find_name_problem, find_value_problem
from abstractvision_batch.job.param_names import LORAS, SCHEDULER, STANDARD, extra_key, is_other
from abstractvision_batch.job.points import WHOLE_PARAMS, count_points, expand_points, find_axes
from abstractvision_batch.job.prompt_files import names_files
from abstractvision_batch.registry.constraints import check_param, check_params, default_params
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.model_names import suggest_model
from abstractvision_batch.text.suggestions import foreign_name_of

MAX_REQUESTS = 2**31
"""Of one job: plan indexes and Arrow row counts stay far from their limits."""

#: Whole numbers between two ends that are checked one by one.
_CHECKED_BETWEEN = 100_000
#: Points that `skip` is asked of.
_SKIPPED_OF = 1_000_000

#: What is no number.
_WORDS = {"negative_prompt": "a text", LORAS: "a name", SCHEDULER: "a name or a mapping"}

Problem = tuple[FieldPath, str]


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking gave: the spec with `matrix` and `zip` values typed as `params` are, its card, the problems."""

    spec: JobSpec
    card: ModelCard | None
    problems: tuple[Problem, ...]


def check_spec(
    spec: JobSpec,
    cards: Mapping[str, ModelCard],
    *,
    ignore: frozenset[FieldPath] = frozenset(),
) -> Checked:
    """Everything that is wrong with a well-formed spec.

    Args:
        spec: the spec; values at the paths in `ignore` are stand-ins for ones that were already complained about.
        cards: the registry.
        ignore: paths not to complain about.
    """
    problems: list[Problem] = []
    varied: dict[str, dict[str, list[Any]]] = {}
    for where in ("matrix", "zip"):
        varied[where], found = _type_values(where, getattr(spec, where))
        problems += found
    draw, found = _type_draw(spec.draw, spec.backend)
    problems += found
    problems += _check_axes(spec, varied)
    problems += _check_seeds(spec)
    problems += [] if problems else _find_repeats(varied["matrix"], varied["zip"], spec.backend)
    problems += _check_count(spec)
    has_points = not problems
    spec = spec.model_copy(update={**varied, "draw": draw})
    if spec.prompts.source == []:
        problems.append((("prompts", "source"), "is an empty list (give at least one prompt)"))
    problems += [] if ("model",) in ignore else _check_budget(spec, cards.get(spec.model))
    card = cards.get(spec.model)
    if not ignore & {("model",), ("task",)}:
        problems += _check_model(spec, card, cards) if card is None else _check_card(spec, card, has_points)
    is_stand_in = "backend" not in spec.model_fields_set and any(path[0] == "backend" for path in ignore)
    if not is_stand_in and ("task",) not in ignore:
        problems += spec.backend.find_problems(spec, card)
    kept = tuple((path, said) for path, said in problems if not _is_under(path, ignore))
    return Checked(spec, card, kept)


def _check_model(spec: JobSpec, card: ModelCard | None, cards: Mapping[str, ModelCard]) -> Iterator[Problem]:
    near = suggest_model(spec.model, cards)
    hint = f"did you mean {near}?" if near else "`avbatch models` lists them; registry.paths adds cards"
    yield ("model",), f"no card has the id {show(spec.model)} ({hint})"


def _check_card(spec: JobSpec, card: ModelCard, has_points: bool) -> Iterator[Problem]:
    """Check what the card says; its points only where there are any: else more than that is wrong."""
    if spec.task not in card.tasks:
        yield ("task",), f"{card.id} has no task {spec.task} (it has: {', '.join(card.tasks)}; {card.origin})"
        return
    given = {name: value for name in Params.model_fields if (value := getattr(spec.params, name)) is not None}
    del given["extra"]
    if "seed" not in spec.params.model_fields_set:
        del given["seed"]
    for name, value in given.items():
        if said := check_param(card, spec.task, name, value):
            yield ("params", name), said
    refused = dict(_check_names(spec))
    yield from ((path, said) for path, said in refused.values())
    has_points = has_points and not refused
    for where in ("matrix", "zip"):
        for name, values in getattr(spec, where).items():
            for index, value in enumerate(values):
                if name not in refused and (said := find_value_problem(spec, card, name, value)):
                    yield (where, name, index), said
    for index, seed in enumerate(spec.seeds):
        if said := check_param(card, spec.task, "seed", seed):
            yield ("seeds", index), said
    drawn = list(_check_draw(spec, card)) if spec.draw and has_points else []
    yield from drawn
    skipping = list(_check_skip(spec, card)) if has_points and not drawn else []
    yield from skipping
    if has_points and not drawn and not skipping:
        yield from _check_output_sizes(spec, card)
    yield from _check_extra(spec, card)
    yield from _check_required(spec, card, {*given, *spec.params.extra, *map(extra_key, find_axes(spec))})


def _check_names(spec: JobSpec) -> Iterator[tuple[str, Problem]]:
    """Yield the other parameters that vary and that no request can have, with the place and what is wrong."""
    columns: dict[str, FieldPath] = {name: ("prompts", "fields", name) for name in spec.prompts.fields.others}
    for name, path in {**columns, **find_axes(spec)}.items():
        if is_other(name) and (said := find_name_problem(spec, name)):
            yield name, (path, said)


def _check_output_sizes(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    """Refuse sizes that the model would change; rows with sizes of their own are the plan's to check."""
    rule = card.output_size(spec.backend.kind, spec.task)
    if rule is None:
        return
    defaults = default_params(card, spec.task)
    for width, height in asked_sizes(spec, card):
        if width is None and height is None:
            continue
        wide, high = width or defaults.get("width"), height or defaults.get("height")
        said = None if wide is None or high is None else rule.problem(wide, high)
        if said is not None:
            side = "width" if width is not None else "height"
            yield find_axes(spec).get(side, ("params", side)), f"{said[:-1]}; {card.origin})"


def asked_sizes(spec: JobSpec, card: ModelCard) -> list[tuple[int | None, int | None]]:
    """Return each width and height that a point of the spec asks for, as far as it does."""
    sides = ("width", "height")
    sizes: dict[tuple[int | None, int | None], None] = {}
    for point in expand_points(spec, card, sides):
        sizes[point.get("width", spec.params.width), point.get("height", spec.params.height)] = None
    return list(sizes)


def _check_draw(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    """Check all that may be drawn: the ends of what is drawn from, what is between them, and the points."""
    assert spec.draw is not None
    refused = set()
    for name, drawn in spec.draw.parameters.items():
        path: FieldPath = ("draw", name, drawn.kind)
        for index, value in enumerate(drawn.values):
            if said := find_value_problem(spec, card, name, value):
                refused.add(name)
                yield (*path, index), said
        between = range(drawn.int[0], drawn.int[1] + 1) if drawn.int and drawn.size <= _CHECKED_BETWEEN else ()
        for value in between if name not in refused else ():
            if said := find_value_problem(spec, card, name, value):
                refused.add(name)
                yield path, f"of what it draws, {said}"
                break
    if refused:
        return
    points = draw_points(spec.draw, spec.params.seed)
    if len(points) < spec.draw.n:
        yield ("draw", "n"), f"there are only {len(points)} different points to draw (make n smaller)"
    for name, drawn in spec.draw.parameters.items():
        problems = (find_value_problem(spec, card, name, point[name]) for point in points)
        if said := next(filter(None, problems), None):
            yield ("draw", name, drawn.kind), f"of what it draws, {said}"


def _check_skip(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    points = count_points(spec)
    if spec.skip is None:
        return
    if points > _SKIPPED_OF:
        yield ("skip",), f"chooses among {_SKIPPED_OF:,} points at most, and there are {points:,}"
        return
    try:
        kept = expand_points(spec, card)
    except SpecError as error:
        yield ("skip",), str(error)
        return
    if not kept:
        yield ("skip",), f"leaves out every point, {points:,} of {points:,} (nothing would be generated)"


def _check_extra(spec: JobSpec, card: ModelCard) -> Iterator[Problem]:
    for name, value in spec.params.extra.items():
        path: FieldPath = ("params", "extra", name)
        known = name if name in STANDARD else foreign_name_of(name, STANDARD)
        if known is not None:
            yield path, f"is no extra parameter (write params.{known})"
        elif name in card.tasks[spec.task].params and (said := check_param(card, spec.task, name, value)):
            yield path, said


def _check_required(spec: JobSpec, card: ModelCard, given: set[str]) -> Iterator[Problem]:
    """A required parameter may come from a row, unless no column can feed it."""
    inline_texts = not names_files(spec.prompts.source) and all(isinstance(row, str) for row in spec.prompts.source)
    for name, said in check_params(card, spec.task, {}):
        columns = {field: column for field, column in spec.prompts.fields if column is not None}
        from_rows = not inline_texts and (name in columns or f"extra.{name}" in columns)
        if name not in given and not from_rows:
            yield ("params", name), said


def _type_values(where: str, lists: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], list[Problem]]:
    """Values as `params` would type them: `3` is `3.0` for a guidance scale."""
    typed: dict[str, list[Any]] = {}
    problems: list[Problem] = []
    for name, values in lists.items():
        if not values:
            problems.append(((where, name), "is an empty list (give values, or remove it)"))
        typed[name], found = _type_list((where, name), name, values)
        problems += found
    return typed, problems


def _type_list(path: FieldPath, name: str, values: list[Any]) -> tuple[list[Any], list[Problem]]:
    if is_other(name):
        return values, []
    typed: list[Any] = []
    problems: list[Problem] = []
    for index, value in enumerate(values):
        try:
            typed.append(getattr(Params.model_validate({name: value}), name))
        except ValidationError as error:
            problems += [((*path, index), said) for said in explain(error, {name: value}, Params).values()]
            typed.append(None)
    return typed, problems


def _type_draw(draw: DrawSpec | None, backend: BackendSection) -> tuple[DrawSpec | None, list[Problem]]:
    """Ends and choices as `params` would type them."""
    if draw is None:
        return None, []
    typed: dict[str, Distribution] = {}
    problems: list[Problem] = []
    for name, drawn in draw.parameters.items():
        path: FieldPath = ("draw", name, drawn.kind)
        if name in _WORDS and drawn.choice is None:
            problems.append((path, f"{name} is {_WORDS[name]} (write choice: [a list])"))
            continue
        if drawn.choice is None and drawn.int is None and name in WHOLE_PARAMS:
            problems.append((path, f"{name} is a whole number (write int: {drawn.values})"))
            continue
        values, found = _type_list(path, name, drawn.values)
        problems += found
        repeated = _repeats(_as_meant(name, values, backend))
        problems += [((*path, index), f"{show(drawn.values[index])} is there twice") for index in repeated]
        typed[name] = drawn.model_copy(update={"choice": values}) if drawn.choice is not None else drawn
    return draw.model_copy(update=typed), problems


def _check_axes(spec: JobSpec, varied: Mapping[str, Mapping[str, list[Any]]]) -> Iterator[Problem]:
    drawn = spec.draw.parameters if spec.draw else {}
    for name in drawn:
        if where := next((where for where in ("matrix", "zip") if name in varied[where]), None):
            yield ("draw", name), f"is in {where} too (a parameter varies in one of them)"
    zipped = varied["zip"]
    for name in zipped:
        if name in varied["matrix"]:
            yield ("zip", name), "is in matrix too (a parameter varies in one of them)"
    if len({len(values) for values in zipped.values()}) > 1:
        listed = ", ".join(f"{name} has {len(values)}" for name, values in zipped.items())
        yield ("zip",), f"lists are not equally long ({listed})"


def _check_seeds(spec: JobSpec) -> Iterator[Problem]:
    """Seeds of a range are checked here, where those of a list were when it was read."""
    for seed in spec.seeds:
        if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            yield ("seeds",), f"{show(seed)} is not an integer from 0 to {MAX_SEED}"
            break
    for index in _repeats(spec.seeds):
        yield ("seeds", index), f"{show(spec.seeds[index])} is there twice"
    for where in ("matrix", "zip", "draw"):
        section = spec.draw.parameters if where == "draw" and spec.draw else getattr(spec, where) or ()
        if spec.seeds and "seed" in section:
            yield ("seeds",), f"{where}.seed gives seeds too (keep one of the two)"
    if spec.seeds and spec.samples_per_prompt > 1:
        said = f"{spec.samples_per_prompt} samples of each prompt, and seeds lists {len(spec.seeds)}"
        yield ("samples_per_prompt",), f"{said} (remove one of the two: each seed is one sample)"


def _find_repeats(
    matrix: Mapping[str, list[Any]], zipped: Mapping[str, list[Any]], backend: BackendSection
) -> Iterator[Problem]:
    for name, values in matrix.items():
        for index in _repeats(_as_meant(name, values, backend)):
            yield ("matrix", name, index), f"{show(values[index])} is there twice (samples_per_prompt repeats a point)"
    places = list(zip(*(_as_meant(name, values, backend) for name, values in zipped.items()), strict=True))
    for index in _repeats(places):
        path: FieldPath = ("zip", next(iter(zipped)), index)
        yield path, f"repeats the values of an earlier place ({index + 1} of {len(places)})"


def _check_count(spec: JobSpec) -> Iterator[Problem]:
    points = count_points(spec)
    prompts = len(spec.prompts.source) if isinstance(spec.prompts.source, list) else 1
    samples = len(spec.seeds) or spec.samples_per_prompt
    requests = prompts * points * samples
    if requests > MAX_REQUESTS:
        path: FieldPath = ("seeds",) if spec.seeds else ("samples_per_prompt",) if samples > 1 else ("matrix",)
        what = f"{points} matrix points × {samples} samples"
        yield path, f"{what} × {prompts} prompts or more are over the {MAX_REQUESTS} requests that one job may have"


def _check_budget(spec: JobSpec, card: ModelCard | None) -> Iterator[Problem]:
    if spec.execution.budget.usd is not None and spec.backend.find_price(card) is None:
        where = spec.backend.how_to_price(spec.model)
        yield ("execution", "budget", "usd"), f"nothing says what a request costs (write {where})"


def _as_meant(name: str, values: list[Any], backend: BackendSection) -> list[Any]:
    key = extra_key(name)
    return [backend.as_meant({key: value})[key] for value in values] if is_other(name) else values


def _repeats(values: list[Any]) -> list[int]:
    """Indexes of values that stood earlier in the list."""
    seen: Counter[str] = Counter()
    repeated = []
    for index, value in enumerate(values):
        # Through JSON, so that true and 1 differ; numbers of one parameter were typed alike before.
        key = json.dumps(value, default=str)
        if seen[key]:
            repeated.append(index)
        seen[key] += 1
    return repeated


def _is_under(path: FieldPath, parents: frozenset[FieldPath]) -> bool:
    return any(path[:length] in parents for length in range(1, len(path) + 1))
