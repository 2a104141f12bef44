"""The `backend` section of a job spec, as far as everything outside `backends/` knows it.

Each backend has a section of its own in its `fields` module, which overrides what differs there. Not covered: what a
backend makes of its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ConfigDict

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.documents.strict_model import StrictModel
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.prices import PriceSpec
from abstractvision_batch.types import Task

if TYPE_CHECKING:
    from abstractvision_batch.job.model import JobSpec

#: Entry points of other packages, each named as the kind: their backends.
BACKEND_GROUP = "abstractvision_batch.backends"

Problem = tuple[FieldPath, str]


class BackendSection(StrictModel):
    """Which backend generates, and how it is configured."""

    #: Whether it runs only models whose cards say so.
    needs_card: ClassVar[bool] = False
    #: Whether the card says which classes and files are loaded.
    loads_by_card: ClassVar[bool] = False
    #: What divides a side that is computed, because one of width and height was not given.
    side_multiple: ClassVar[int] = 1
    #: Whether a request may have a scheduler of its own, as `extra.scheduler`.
    takes_scheduler: ClassVar[bool] = False

    kind: str

    @property
    def server_url(self) -> str | None:
        """URL of the server that generates; None where workers do."""
        return None

    @property
    def lacks_key(self) -> bool:
        """Whether its server is known to need a key, and none is named."""
        return False

    @property
    def max_in_flight(self) -> int | None:
        """Requests that all workers together may have in flight at a server; None where they generate themselves."""
        return None

    @property
    def cpus(self) -> int:
        """CPUs that one worker keeps busy."""
        return 1

    @property
    def adapter_sets(self) -> Mapping[str, Sequence[StrictModel]] | None:
        """LoRA adapters that a request may name, by the name of their set, and under "" those of one that names none.

        None where no request has adapters of its own.
        """
        return None

    @property
    def downloads(self) -> bool:
        """Whether missing weights are fetched from the hub."""
        return False

    @property
    def asked_programs(self) -> Mapping[str, str]:
        """Programs that are started to ask for their version, by the field that names them."""
        return {}

    def how_to_price(self, model: str) -> str:
        """Say where to write what a request costs."""
        return f"price: {{request_usd: …}} under backends.{self.kind} of the card of {model}"

    def wants_gpu(self, *, found: bool) -> bool:
        """Tell whether a worker takes a GPU of a cluster in which there are some, if `found`."""
        return False

    @property
    def pinned_device(self) -> str | None:
        """The one device that every worker uses; None where each takes what is free."""
        return None

    def gpu_bytes(self, card: ModelCard) -> int | None:
        """Return the GPU memory that the model's weights take; None where the card does not say."""
        return card.facts(self.kind).memory_bytes

    def at_path(self, path: str) -> Self:
        """Return the section for a model that is this folder or file, unless it names another."""
        return self

    def as_begun(self, recorded: Mapping[str, Any]) -> Self:
        """Return the section as a run that an earlier version recorded it for keeps to it."""
        return self

    def without_repeats(self) -> Self:
        """Return the section for a run that counts tries: a request that may have been billed is not sent again."""
        return self

    def as_meant(self, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request's `extra` with one spelling of what means the same: of its id and of repeated points."""
        return extra

    def find_problems(self, spec: JobSpec, card: ModelCard | None) -> Iterator[Problem]:
        """Yield what is wrong with a job for this backend, loading nothing; a model without a card has none."""
        if card is not None and (said := self.refuse_task(card, spec.task)):
            yield ("backend", "kind"), said

    def refuse_task(self, card: ModelCard, task: Task) -> str | None:
        """Return why this backend does not run a task of a model; None where it does, or the model has none such."""
        known = card.backends_for(task) if task in card.tasks else (self.kind,)
        if self.kind in known or not (self.needs_card or self.kind in card.backends):
            return None
        others = ", ".join(known) or "none"
        return f"{self.kind} does not run {task} of {card.id} (backends that do: {others}; {card.origin})"

    def find_price(self, card: ModelCard | None) -> PriceSpec | None:
        """Return the price of a request, if the section or the model's card names one."""
        return None if card is None else card.facts(self.kind).price

    def unread_columns(self, spec: JobSpec, fields: Iterable[str]) -> Iterator[Problem]:
        """Yield the fields that rows set for themselves and that this backend is known to ignore."""
        return iter(())

    def unread_by(self, settled: Mapping[str, Any], spec: JobSpec) -> Iterator[Problem]:
        """Yield what a job asks for and the backend ignores, by what it settled (`VisionBackend.settle`)."""
        return iter(())


class UnknownSection(BackendSection):
    """What a run recorded of a backend that is not installed here: it can be read, not run."""

    model_config = ConfigDict(extra="allow")
