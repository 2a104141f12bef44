"""Which column of the prompt dataset feeds which field, and which pass through to the manifest under which name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from abstractvision_batch.job.load import Job
from abstractvision_batch.job.param_names import is_other
from abstractvision_batch.job.points import find_axes, names_in_skip
from abstractvision_batch.prompts.problems import Problems, list_columns, suggest
from abstractvision_batch.registry.constraints import check_params
from abstractvision_batch.runs.columns import media_column, reserved_name

#: Parameters that a row may set for itself, in the order of the plan's columns.
ROW_PARAMS = ("negative_prompt", "seed", "steps", "guidance_scale", "width", "height", "num_frames", "fps", "strength")
IMAGE_TASKS = frozenset({"image_to_image", "image_to_video", "multi_view_image"})
#: What data sets call the prompt; the first that any column has counts.
_PROMPT_NAMES = (("prompt",), ("caption", "text"))
_NEEDS_IMAGE = frozenset({"image_to_image", "image_to_video"})


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """`fields` maps a field (`prompt`, `id`, `steps`, ...) to its column, `passed` a column to its new name."""

    fields: dict[str, str]
    passed: dict[str, str]
    notes: tuple[str, ...] = ()
    """What was settled without being asked for."""

    @property
    def others(self) -> dict[str, str]:
        """The columns of parameters that only a model's pipeline, server or program has."""
        return {name: column for name, column in self.fields.items() if is_other(name)}


def map_columns(job: Job, columns: Sequence[str]) -> ColumnMap:
    """Settle what every column is for.

    Raises:
        SpecError: a named column is missing, a needed one is not named, or names collide; all of it together.
    """
    problems = Problems()
    notes: list[str] = []
    fields = _map_fields(job, columns, problems, notes)
    passed = _map_passed(job, columns, set(fields.values()), problems, notes)
    problems.raise_any()
    return ColumnMap(fields, passed, tuple(notes))


def _map_fields(job: Job, columns: Sequence[str], problems: Problems, notes: list[str]) -> dict[str, str]:
    spec, prompts = job.spec, job.spec.prompts
    reads_mask, reads_image = spec.task == "image_to_image", spec.task in IMAGE_TASKS
    unread = {name for name, reads in (("image", reads_image), ("mask", reads_mask)) if not reads}
    fields: dict[str, str] = {}
    for field, column in prompts.fields:
        explicit = field in prompts.fields.model_fields_set
        place = job.at(("prompts", "fields", field))
        if column is None or (field in unread and not explicit):
            continue
        if field in unread:
            problems.add(f"{place}: {spec.task} reads no {field} (leave it out)")
        elif column in columns:
            fields[field] = column
        elif explicit:
            problems.add(f"{place}: the prompts have no column {column!r} ({suggest(column, columns)})")
    if _lacks_prompt(job, fields) and (found := _find_prompt(columns, fields)) is not None:
        fields["prompt"] = found
        notes.append(f"column {found!r} is taken for the prompt (prompts.fields.prompt names another)")
    _check_needed(job, columns, fields, problems)
    for path, said in spec.backend.unread_columns(spec, fields):
        problems.add(f"{job.at(path)}: column {fields[str(path[-1])]!r}: {said}")
    for name, path in find_axes(spec).items():
        if name in fields:
            problems.add(
                f"{job.at(path)}: the prompts' column {fields[name]!r} "
                f"sets {name} too (take one away, or set prompts.fields.{name}: null)"
            )
    for name in names_in_skip(spec, job.card) & set(fields):
        problems.add(
            f"{job.at('skip')}: the prompts' column {fields[name]!r} sets {name}, which is not the same for all of a "
            f"point then (leave {name} out, or set prompts.fields.{name}: null)"
        )
    return fields


def _lacks_prompt(job: Job, fields: dict[str, str]) -> bool:
    """Tell whether nothing gives the prompt, though the task needs one and the spec does not say what should."""
    prompts = job.spec.prompts
    given = "prompt" in fields or prompts.template is not None or "prompt" in prompts.fields.model_fields_set
    return not given and job.spec.task != "image_to_video"


def _find_prompt(columns: Sequence[str], fields: dict[str, str]) -> str | None:
    """Return the only column that is called like a prompt: `Prompt`, else `caption` or `text` in any case."""
    free = [column for column in columns if column not in fields.values()]
    for names in _PROMPT_NAMES:
        if found := [column for column in free if column.strip().casefold() in names]:
            return found[0] if len(found) == 1 else None
    return None


def _check_needed(job: Job, columns: Sequence[str], fields: dict[str, str], problems: Problems) -> None:
    spec = job.spec
    place = job.at("prompts.fields")
    for name, said in needed_from_rows(job).items():
        if name not in fields:
            problems.add(f"{place}.{name}: no column feeds it, and {said}")
    named = spec.prompts.fields.prompt
    lacks_prompt = "prompt" not in fields and spec.prompts.template is None and spec.task != "image_to_video"
    if lacks_prompt and (named is None or "prompt" not in spec.prompts.fields.model_fields_set):
        problems.add(
            f"{place}: no column feeds the prompt (name one with prompt:, or set template; {list_columns(columns)})"
        )
    if spec.task in _NEEDS_IMAGE and "image" not in fields and "image" not in spec.prompts.fields.model_fields_set:
        problems.add(
            f"{place}: {spec.task} needs an image for every prompt "
            f"(name its column with image:; {list_columns(columns)})"
        )
    elif spec.task in _NEEDS_IMAGE and spec.prompts.fields.image is None:
        problems.add(f"{place}: image: {spec.task} needs an image for every prompt (name its column)")


def needed_from_rows(job: Job) -> dict[str, str]:
    """Parameters that the card requires and neither `params` nor a sweep gives, with the card's words for it."""
    spec = job.spec
    given = {name for name in ROW_PARAMS if name != "seed" and getattr(spec.params, name) is not None}
    given |= set(find_axes(spec))
    said = check_params(job.card, spec.task, {})
    return {name: message for name, message in said if name in ROW_PARAMS and name not in given}


def _map_passed(
    job: Job, columns: Sequence[str], feeding: set[str], problems: Problems, notes: list[str]
) -> dict[str, str]:
    prompts = job.spec.prompts
    for number, name in enumerate(prompts.drop):
        if name not in columns:
            place = job.at(("prompts", "drop", number))
            problems.add(f"{place}: the prompts have no column {name!r} ({suggest(name, columns)})")
    for name in prompts.rename:
        place = job.at(("prompts", "rename", name))
        if name not in columns:
            problems.add(f"{place}: the prompts have no column {name!r} ({suggest(name, columns)})")
        elif name in prompts.drop:
            problems.add(f"{place}: {name!r} is dropped too (do one of the two)")
        elif name in feeding:
            problems.add(f"{place}: {name!r} feeds a field and does not pass through (leave it out)")
    if problems:  # a column meant for a misspelt field would only be said to collide
        return {}
    passed: dict[str, str] = {}
    taken: dict[str, str] = {}
    media = media_column(job.spec.task) if job.spec.output.layout == "parquet" else None
    params = {*find_axes(job.spec), *prompts.fields.others}
    for column in columns:
        if column in feeding or column in prompts.drop:
            continue
        new = prompts.rename.get(column, column)
        at = ("prompts", "rename", column) if column in prompts.rename else ("prompts", "source")
        place = f"{job.at(at)}: column {column!r}"
        own = media if media is not None and new.casefold() == media else reserved_name(new)
        own = own or next((name for name in params if name.casefold() == new.casefold()), None)
        if own is not None:
            whose = f"the {own!r} of output.layout: parquet" if own == media else f"the plan's own {own!r}"
            free = _free(new, columns)
            if column in prompts.rename or _is_mentioned(job, column):
                problems.add(f"{place} meets {whose} (rename: {{{column}: {free}}}, or drop it)")
            else:
                notes.append(f"column {column!r} meets {whose} and is called {free!r} (prompts.rename names it)")
                new = free
        if other := taken.get(new.casefold()):
            problems.add(f"{place} differs from {other!r} by case only, or not at all (rename or drop one)")
        passed[column] = new
        taken[new.casefold()] = column
    return passed


def _is_mentioned(job: Job, column: str) -> bool:
    """Tell whether the spec speaks of the column, so that another name in the manifest would surprise."""
    texts = (job.spec.prompts.template, job.spec.prompts.where)
    return any(text is not None and re.search(rf"\b{re.escape(column)}\b", text) is not None for text in texts)


def _free(name: str, columns: Sequence[str]) -> str:
    candidate = f"source_{name}"
    taken = {column.casefold() for column in columns}
    while candidate.casefold() in taken:
        candidate += "_"
    return candidate
