"""What is wrong with a job's scheduler and extra parameters, by the source of the installed Diffusers.

Nothing is loaded or imported. Not covered: whether a scheduler fits the model, which its own configuration says
(`loading`); values of parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.families import argument_names
from abstractvision_batch.backends.huggingface_diffusers.locate import find_model
from abstractvision_batch.backends.huggingface_diffusers.prepare import BACKEND_EXTRA, NOT_EXTRA, check_extra
from abstractvision_batch.backends.huggingface_diffusers.signatures import list_schedulers, read_pipeline
from abstractvision_batch.errors import DependencyError, GenerationError
from abstractvision_batch.text.suggestions import did_you_mean
from abstractvision_batch.types import Task

#: What other tools call some of them, in lower case and without spaces.
_COMMON_NAMES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++2mkarras": "DPMSolverMultistepScheduler",
    "dpm++sde": "DPMSolverSDEScheduler",
    "dpm++sdekarras": "DPMSolverSDEScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2a": "KDPM2AncestralDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "eulera": "EulerAncestralDiscreteScheduler",
    "eulerancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "plms": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def find_problems(
    config: HuggingFaceDiffusersBackendConfig, task: Task, extra: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong, as (path of the spec's field, message)."""
    schedulers = list_schedulers()
    if config.scheduler is not None and schedulers and config.scheduler not in schedulers:
        guess = suggest_scheduler(config.scheduler, schedulers)
        hint = f"did you mean {guess}?" if guess else "give a class of Diffusers, such as EulerDiscreteScheduler"
        yield ("backend", "scheduler"), f"Diffusers has no {config.scheduler} ({hint})"
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


def suggest_scheduler(name: str, known: Collection[str]) -> str | None:
    """Return the scheduler that a wrong name probably means."""
    plain = name.lower().replace(" ", "").replace("_", "").removesuffix("scheduler")
    if plain in _COMMON_NAMES:
        return _COMMON_NAMES[plain]
    folded = {candidate.lower().removesuffix("scheduler"): candidate for candidate in known}
    near = did_you_mean(plain, folded)
    return None if near is None else folded[near]


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
