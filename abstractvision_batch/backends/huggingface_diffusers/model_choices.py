"""What requests for a model may choose: arguments of its pipelines, and schedulers, by the source of Diffusers.

Nothing is loaded or imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from abstractvision_batch.backends.choices import Choice, ModelChoices, SchedulerFacts
from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.families import argument_names, guidance_argument
from abstractvision_batch.backends.huggingface_diffusers.locate import find_model
from abstractvision_batch.backends.huggingface_diffusers.prepare import NOT_EXTRA
from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import SOLVERS
from abstractvision_batch.backends.huggingface_diffusers.schedulers import OwnScheduler
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline, read_scheduler_source
from abstractvision_batch.errors import DependencyError


def find_choices(config: HuggingFaceDiffusersBackendConfig) -> ModelChoices:
    """Return what requests may choose; a model with a card that is not here has no schedulers, and a note."""
    extras = tuple(choice for kind, name in config.pipelines.items() for choice in _extras(kind, name, config))
    try:
        own = OwnScheduler.of(find_model(config.for_kind(None)))
    except DependencyError as error:
        return ModelChoices(extras, note=f"which schedulers fit is not known: {error}")
    return ModelChoices(extras, () if own is None else tuple(_scheduler(name, own) for name in own.fitting()))


def _extras(kind: str, pipeline: str, config: HuggingFaceDiffusersBackendConfig) -> Iterator[Choice]:
    source = read_pipeline(pipeline)
    if source is None:
        return
    arguments = dict.fromkeys(source.required) | source.defaults
    ours = {*argument_names(arguments, config.rename).values(), guidance_argument(arguments, config.rename)}
    for name, required in source.required.items():
        if name not in NOT_EXTRA | ours:
            yield Choice(name, kind, default=source.defaults.get(name), required=required)


def _scheduler(name: str, own: OwnScheduler) -> SchedulerFacts:
    source = read_scheduler_source(name)
    settings = () if source is None else source.settings.items()
    return SchedulerFacts(
        name,
        is_own=name == own.name,
        known_as=tuple(known for known, (meant, _) in SOLVERS.items() if meant == name),
        settings=tuple(
            Choice(
                setting,
                type="" if written is None else ast.unparse(written),
                default=own.value_of(setting, None if source is None else source.defaults.get(setting)),
            )
            for setting, written in settings
        ),
    )
