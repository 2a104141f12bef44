"""What is wrong with a job's scheduler and extra parameters, by the source of the installed Diffusers.

Nothing is loaded or imported. Not covered: values of other parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.families import argument_names
from abstractvision_batch.backends.huggingface_diffusers.locate import find_model
from abstractvision_batch.backends.huggingface_diffusers.prepare import BACKEND_EXTRA, NOT_EXTRA, check_extra
from abstractvision_batch.backends.huggingface_diffusers.schedulers import (
    OwnScheduler,
    Problem,
    find_scheduler_problems,
)
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.types import Task


def find_problems(config: HuggingFaceDiffusersBackendConfig, task: Task, extra: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong, as (path of the spec's field, message)."""
    for path, value in ((("backend",), config.scheduler), (("params", "extra"), extra.get("scheduler"))):
        if value is not None:
            problems = _scheduler_problems(config, task, value)
            yield from (((*path, "scheduler", *inside), said) for inside, said in problems)
    names = _pipelines(config, task)
    sources = [read_pipeline(name) for name in names]
    known = [source for source in sources if source is not None]
    if not known or len(known) != len(sources):
        return
    taken: set[str] = {*BACKEND_EXTRA, *(("angles",) if task == "multi_view_image" else ())}
    for source in known:
        own = set(argument_names(source.required, config.rename).values())
        taken |= set(source.required) - NOT_EXTRA - own
    for name, value in extra.items():
        try:
            check_extra({name: value}, taken, " and ".join(names))
        except GenerationError as error:
            yield ("params", "extra", name), str(error).partition(": ")[2]


def _scheduler_problems(config: HuggingFaceDiffusersBackendConfig, task: Task, value: Any) -> Iterator[Problem]:
    try:
        own = OwnScheduler.of(find_model(config.for_kind(task)))
    except DependencyError:
        own = None  # what is missing is said when it is needed
    return find_scheduler_problems(value, own)


def _pipelines(config: HuggingFaceDiffusersBackendConfig, task: Task) -> list[str]:
    """Return the classes that requests of a task may run as; none where only the loaded model says."""
    kinds = (task, "inpaint") if task == "image_to_image" else (task,)
    named = [config.pipelines[kind] for kind in kinds if kind in config.pipelines]
    if named or config.pipelines:
        return list(dict.fromkeys(named))
    try:
        base = find_model(config.for_kind(task)).pipeline_class
    except DependencyError:
        return []
    # an image task may run as a class that is derived from the saved one, with other arguments
    return [base] if task.endswith("video") else []
