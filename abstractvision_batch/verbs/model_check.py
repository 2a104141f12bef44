"""Check before workers start that the model's files exist and are the ones that this run started with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.table import (
    ExtraChecker,
    create_backend,
    find_extra_checker,
    find_own_problems,
    load_backend_class,
    require_extra,
)
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import DependencyError, SpecError
from abstractvision_batch.execute.executor_choice import choose_executor
from abstractvision_batch.execute.ray.address import find_address
from abstractvision_batch.execute.run_server import require_read
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.other_params import varied_values
from abstractvision_batch.job.param_names import extra_key, is_other
from abstractvision_batch.job.points import find_axes
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.files import WEIGHTS
from abstractvision_batch.runs.weights import find_conflict, forget_unused_weights
from abstractvision_batch.storage.store import Store


def check_model(job: Job) -> None:
    """Check that the model is there, loading nothing; workers of a cluster elsewhere find out for themselves.

    Raises:
        DependencyError: it is not; the message has the command that fixes it.
        SpecError: it takes no such parameters.
    """
    if workers_are_here(job):
        for variant in job.variants:
            check_parameters(variant)
            with variant.blame("model"):
                _create_backend(variant).check_ready()


def check_server(job: Job) -> None:
    """Check that a new run's server is there, and reads what the job asks for; workers elsewhere find out themselves.

    Raises:
        DependencyError: it is missing, or refuses the key.
        SpecError: it ignores something that the job asks for; a line for each field.
    """
    if not workers_are_here(job):
        return
    for variant in job.variants:
        if variant.spec.backend.server_url is None:
            continue
        with variant.blame("backend.base_url"), _create_backend(variant) as backend:
            settled = backend.settle()
        if settled is not None:
            require_read(variant.spec, settled, at=variant.at)


def check_parameters(job: Job) -> None:
    """Check the names of the backend's own parameters against what is installed here, loading nothing.

    Raises:
        SpecError: some are wrong; one line for each.
        DependencyError: the backend is not installed here.
    """
    require_extra(job.spec.backend.kind)
    find = find_extra_checker(job.backend, job.card, job.spec.model, job.spec.task)
    found = [] if find is None else [*find(job.spec.params.extra), *_check_varied(job.spec, find)]
    if found:
        lines = [f"{job.at(path)}: {said}" for path, said in found]
        raise SpecError("\n".join(lines), problems=tuple(lines))


def _check_varied(spec: JobSpec, find: ExtraChecker) -> Iterator[tuple[FieldPath, str]]:
    """Check the names of parameters that vary, and the values that the spec lists; those of rows are checked there."""
    places: dict[str, FieldPath] = {name: ("prompts", "fields", name) for name in spec.prompts.fields.others}
    places |= {name: path for name, path in find_axes(spec).items() if is_other(name)}
    unknown = set()
    for name, path in places.items():
        for _, said in find_own_problems(find, extra_key(name), None):
            unknown.add(name)
            yield path, said
    for path, name, value in varied_values(spec):
        if name not in unknown:
            yield from (((*path, *inside), said) for inside, said in find_own_problems(find, extra_key(name), value))


def count_cut_prompts(job: Job, prompts: Iterable[str]) -> tuple[int, int]:
    """Return how many prompts are longer than the model reads, and by how many tokens the longest is; 0 if unknown."""
    if load_backend_class(job.spec.backend.kind).count_cut_tokens is VisionBackend.count_cut_tokens:
        return 0, 0
    cut = list(_create_backend(job).count_cut_tokens(job.spec.task, prompts, job.spec.params.extra))
    return sum(tokens > 0 for tokens in cut), max(cut, default=0)


def find_weights(job: Job) -> Weights | None:
    """The weights that workers will load; None where only they know: they are elsewhere, or download them."""
    if not workers_are_here(job):
        return None
    try:
        return _create_backend(job).weights(job.spec.task)
    except DependencyError:
        return None  # what is missing is said before anything is generated (`check_model`)


def check_weights(job: Job, store: Store) -> None:
    """Check that the weights are still those of the run; where nothing was made of these, others may take their place.

    Raises:
        SpecError: they are not; the message names the files that changed.
    """
    for variant in job.variants:
        folder = variant.model_folder
        found = find_weights(variant) if store.exists(folder + WEIGHTS) else None
        if found is None:
            continue
        if conflict := find_conflict(store, found, folder):
            raise SpecError(
                f"{variant.at('model')}: {store.url} was begun with other files of "
                f"{variant.spec.model}: {conflict} (put those back, choose another output.path, or --new-run)"
            )
        forget_unused_weights(store, found, folder)


def workers_are_here(job: Job) -> bool:
    """Whether what is on this machine is what workers will load."""
    return choose_executor(*job.specs).executor == "inline" or find_address(job.spec.execution) is None


def _create_backend(job: Job) -> VisionBackend:
    return create_backend(job.backend, card=job.card, model=job.spec.model)
