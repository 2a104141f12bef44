"""The scheduler of one forward pass: made from the configuration of the model's own, and new for every pass.

A scheduler remembers steps and noise of the pass that it was in, some of them beyond it; pipelines change the
configuration of the one that they are given. So each pass has a copy of one that was in none, and pixels depend on
nothing that ran before.

Not covered: which request wants which (`prepare`), which of them fit (`schedulers`).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import diffusers

from abstractvision_batch.backends.huggingface_diffusers.loading import quiet
from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import SchedulerChoice
from abstractvision_batch.backends.huggingface_diffusers.schedulers import OwnScheduler, find_scheduler_problems
from abstractvision_batch.errors import CapabilityNotSupportedError, OptionalDependencyMissingError


class SchedulerSwitch:
    """The schedulers of a model's pipelines, by kind of request; a choice of None is the model's own."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._own = copy.deepcopy(base.scheduler)
        self._unused: dict[tuple[str, str], Any] = {}

    def restore(self) -> None:
        """Give the model's pipeline its own scheduler again, before another pipeline is derived from it."""
        _give(self._base, copy.deepcopy(self._own))

    def adopt(self, kind: str, pipeline: Any) -> None:
        """Remember the scheduler of the pipeline of a kind, as its constructor left it."""
        self._unused[kind, _key(None)] = copy.deepcopy(pipeline.scheduler)

    def put(self, kind: str, pipeline: Any, choice: SchedulerChoice | None) -> None:
        """Give the pipeline of a kind, which was adopted, a scheduler that was in no pass.

        Raises:
            CapabilityNotSupportedError: it does not fit the model, or its settings are wrong.
            OptionalDependencyMissingError: it needs a package that is not installed.
        """
        key = kind, _key(choice)
        if choice is not None and key not in self._unused:
            self._unused[key] = make_scheduler(self._unused[kind, _key(None)], choice)
        _give(pipeline, copy.deepcopy(self._unused[key]))


def make_scheduler(own: Any, choice: SchedulerChoice) -> Any:
    """Make a scheduler from the configuration of a model's own.

    Raises:
        CapabilityNotSupportedError: it does not fit the model, or its settings are wrong.
        OptionalDependencyMissingError: it needs a package that is not installed.
    """
    problems = list(find_scheduler_problems(choice.plain, OwnScheduler(type(own).__name__, own.config)))
    if problems:
        raise CapabilityNotSupportedError("; ".join(": ".join([*map(str, path), said]) for path, said in problems))
    try:
        with quiet():  # advice on what is in the configuration for the model's own alone
            return getattr(diffusers, choice.name).from_config(own.config, **choice.settings)
    except ImportError as exc:
        lacking = "torchsde" if "torchsde" in str(exc) else "scipy"  # of noise, or of beta sigmas
        raise OptionalDependencyMissingError(
            f"{choice.name} needs {lacking}, which is not installed (pip install {lacking})"
        ) from exc
    except (ValueError, TypeError, NotImplementedError) as exc:
        raise CapabilityNotSupportedError(f"{choice.name} cannot be made so: {' '.join(str(exc).split())}") from exc


def _give(pipeline: Any, scheduler: Any) -> None:
    """Replace the scheduler of a pipeline, and of one inside it that has the same (Kandinsky's combined ones)."""
    replaced = pipeline.scheduler
    for part in (pipeline, *vars(pipeline).values()):
        if isinstance(part, diffusers.DiffusionPipeline) and getattr(part, "scheduler", None) is replaced:
            part.scheduler = scheduler


def _key(choice: SchedulerChoice | None) -> str:
    return json.dumps(choice and choice.plain, sort_keys=True, default=repr)
