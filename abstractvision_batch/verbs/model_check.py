"""Check before workers start that the model's files exist and are the ones that this run started with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.backends.table import create_backend, load_backend_class
from abstractvision_batch.errors import DependencyError, SpecError, StorageError
from abstractvision_batch.execute.ray.address import find_address
from abstractvision_batch.execute.run_server import require_read
from abstractvision_batch.job.load import LoadedSpec
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.runs.weights import WEIGHTS, find_conflict, forget_unused_weights
from abstractvision_batch.storage.store import Store


def check_model(loaded: LoadedSpec) -> None:
    """Check that the model is there, loading nothing; workers of a cluster elsewhere find out for themselves.

    Raises:
        DependencyError: it is not; the message has the command that fixes it.
        SpecError: it takes no such parameters.
    """
    if workers_are_here(loaded):
        check_parameters(loaded)
        with placed(loaded, "model"):
            _create_backend(loaded).check_ready()


def check_server(loaded: LoadedSpec) -> None:
    """Check that a new run's server is there, and reads what the job asks for; workers elsewhere find out themselves.

    Raises:
        DependencyError: it is missing, or refuses the key.
        SpecError: it ignores something that the job asks for; a line for each field.
    """
    if not isinstance(loaded.spec.backend, OpenAIBackendSpec) or not workers_are_here(loaded):
        return
    with placed(loaded, "backend", "base_url"), _create_backend(loaded) as backend:
        settled = backend.settle()
    if settled is not None:
        require_read(loaded.spec, settled, where=loaded.positions.where)


def check_parameters(loaded: LoadedSpec) -> None:
    """Check the names of the backend's own parameters against what is installed here, loading nothing.

    Raises:
        SpecError: some are wrong; one line for each.
        DependencyError: the backend is not installed here.
    """
    if load_backend_class(loaded.spec.backend.kind).find_problems is VisionBackend.find_problems:
        return  # a server's key, which making the backend needs, may be elsewhere
    found = _create_backend(loaded).find_problems(loaded.spec.task, loaded.spec.params.extra)
    if found:
        lines = [f"{loaded.positions.where(path)}: {'.'.join(path)}: {said}" for path, said in found]
        raise SpecError("\n".join(lines), problems=tuple(lines))


def count_cut_prompts(loaded: LoadedSpec, prompts: Iterable[str]) -> tuple[int, int]:
    """Return how many prompts are longer than the model reads, and by how many tokens the longest is; 0 if unknown."""
    if load_backend_class(loaded.spec.backend.kind).count_cut_tokens is VisionBackend.count_cut_tokens:
        return 0, 0
    cut = list(_create_backend(loaded).count_cut_tokens(loaded.spec.task, prompts, loaded.spec.params.extra))
    return sum(tokens > 0 for tokens in cut), max(cut, default=0)


def find_weights(loaded: LoadedSpec) -> Weights | None:
    """The weights that workers will load; None where only they know: they are elsewhere, or download them."""
    if not workers_are_here(loaded):
        return None
    try:
        return _create_backend(loaded).weights(loaded.spec.task)
    except DependencyError:
        return None  # what is missing is said before anything is generated (`check_model`)


def check_weights(loaded: LoadedSpec, store: Store) -> None:
    """Check that the weights are still those of the run; where nothing was made of these, others may take their place.

    Raises:
        SpecError: they are not; the message names the files that changed.
    """
    found = find_weights(loaded) if store.exists(WEIGHTS) else None
    if found is None:
        return
    if conflict := find_conflict(store, found):
        raise SpecError(
            f"{loaded.positions.where(('model',))}: model: {store.url} was begun with other files of "
            f"{loaded.spec.model}: {conflict} (put those back, choose another output.path, or --new-run)"
        )
    forget_unused_weights(store, found)


@contextmanager
def placed(loaded: LoadedSpec, *field: str) -> Iterator[None]:
    """Name the field of the spec that asks for what is missing.

    Before the first byte is written, a store that refuses is a wrong spec, not a storage failure to retry. One that is
    down is a storage failure like any other.
    """
    place = f"{loaded.positions.where(field)}: {'.'.join(field)}"
    try:
        yield
    except DependencyError as exc:
        raise type(exc)(f"{place}: {exc}") from exc
    except StorageError as exc:
        if exc.transient:
            raise exc.with_message(f"{place}: {exc} (running the same command again tries again)") from exc
        raise SpecError(f"{place}: {exc} (choose another)") from exc


def workers_are_here(loaded: LoadedSpec) -> bool:
    """Whether what is on this machine is what workers will load."""
    execution = loaded.spec.execution
    return execution.executor == "inline" or find_address(execution) is None


def _create_backend(loaded: LoadedSpec) -> VisionBackend:
    return create_backend(loaded.backend, card=loaded.card, model=loaded.spec.model)
