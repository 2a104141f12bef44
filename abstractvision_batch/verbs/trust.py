"""What a run would contact, read and start if it were taken at its word, and whether it may be.

A run folder may come from a stranger. Verbs that take a run (`retry`, `rerun`, `verify`) run with the spec that the run
recorded, so all that this spec names outside of the run is listed here: servers, variables with secrets, programs,
local paths. Nothing of it is used unless this user started the run (`runs.started`), named it in an override, or trusts
the run by name. A run that names nothing needs no trust, e.g. one on the procedural backend or the embedded model.

Not covered: a spec that the user names, which is the user's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from abstractvision_batch.backends.table import BACKENDS
from abstractvision_batch.documents.positions import format_path
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.marks import Outside
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import FieldValue, leaves
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.started import state_folder, was_started_here

logger = logging.getLogger(__name__)

#: Tasks whose requests have pictures of elsewhere.
_TASKS_WITH_IMAGES = ("image_to_image", "image_to_video", "multi_view_image")


def require_trust(source: Run, job: Job, *, verb: str, overrides: Sequence[str], trust: bool) -> None:
    """Refuse to run with what a run recorded, where it names anything outside of it and this user did not start it.

    Args:
        source: The run.
        job: Its recorded spec, overridden.
        verb: What the message calls this, as ``a retry``.
        overrides: ``dotted.key=value`` strings that the user gave: what they name is the user's.
        trust: Whether the user said that the run may be trusted; what is trusted is logged.

    Raises:
        SpecError: it is not trusted; the message lists everything.
    """
    own = {text.partition("=")[0].strip() for text in overrides}
    demands = [f"{said} ({field})" for field, said in find_demands(job) if not _is_named(field, own)]
    if not demands or was_started_here(source.store, source.record):
        return
    listed = "; ".join(demands)
    if not trust:
        raise SpecError(
            f"{source.url}: {verb} would, because its run.json says so: {listed}. {state_folder()} does not say that "
            "you started this run as it is now (look at what it names, then --trust; or run its own spec again)"
        )
    logger.warning("%s: trusted, so %s will: %s", source.url, verb, listed)


def find_demands(job: Job) -> Iterator[tuple[str, str]]:
    """Everything outside of a run that its spec names, as (field, what would be done)."""
    demands = (demand for variant in job.variants for demand in _demands_of_variant(variant))
    yield from dict.fromkeys(demands)


def _demands_of_variant(job: Job) -> Iterator[tuple[str, str]]:
    spec = job.spec.model_copy(update={"backend": job.backend})
    for leaf in leaves(JobSpec, spec):
        if not leaf.is_default:
            field = format_path(leaf.path)
            yield from ((field, said) for said in dict.fromkeys(_demands_of(leaf, spec.model)))
    if spec.backend.kind not in BACKENDS:
        yield "backend.kind", f"use the backend {spec.backend.kind}, with whatever the run gives it"
    if spec.task in _TASKS_WITH_IMAGES:
        yield "prompts.source", "read the input pictures that its plan names: files of this machine, URLs"
    if spec.backend.loads_by_card:  # this installation's own card may say what is loaded
        installed, kind = load_cards([]).get(spec.model), spec.backend.kind
        if installed is None or installed.backends.get(kind) != job.card.backends.get(kind):
            yield "model", f"load {spec.model} as the card that it recorded says"


def _demands_of(leaf: FieldValue, model: str) -> Iterator[str]:
    """Say what would be done with a field; the elements of a list of texts are said together."""
    texts: dict[tuple[str, str], list[str]] = {}
    for part in leaf.parts():
        secret = part.value.env if isinstance(part.value, FromEnv) else None
        mark = part.mark(Outside)
        if mark is not None and (does := mark.does if secret is None else mark.with_secret) is not None:
            path = format_path(part.path if isinstance(part.path[-1], str) else part.path[:-1])
            texts.setdefault((path, does), []).append(str(part.value) if secret is None else secret)
    for (path, does), values in texts.items():
        key = path.removeprefix(f"{format_path(leaf.path)}.")
        yield does.format(value=" ".join(values)[:500], key=key, name=leaf.path[-1], model=model)


def _is_named(field: str, own: set[str]) -> bool:
    """Whether an override names the field, or a section that it is in, or all that is in it."""
    return any(field == key or field.startswith(f"{key}.") for key in own)
