"""The `backend` section of a job spec, as far as everything outside `backends/` knows it.

Each backend has a section of its own in its `fields` module, which overrides what differs there. Not covered: what a
backend makes of its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.documents.strict_model import StrictModel
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.prices import PriceSpec

if TYPE_CHECKING:
    from abstractvision_batch.job.model import JobSpec

Problem = tuple[FieldPath, str]


class BackendSection(StrictModel):
    """Which backend generates, and how it is configured."""

    #: Whether it runs only what a model's card says that it runs.
    needs_card: ClassVar[bool] = False
    #: What divides a side that is computed, because one of width and height was not given.
    side_multiple: ClassVar[int] = 1

    kind: str

    def find_problems(self, spec: JobSpec, card: ModelCard | None) -> Iterator[Problem]:
        """Yield what is wrong with a job for this backend, loading nothing; a model without a card has none."""
        if card is None or spec.task not in card.tasks or self.kind in card.backends_for(spec.task):
            return
        if self.needs_card or self.kind in card.backends:
            known = ", ".join(card.backends_for(spec.task)) or "none"
            yield (
                ("backend", "kind"),
                f"{self.kind} does not run {spec.task} of {card.id} (backends that do: {known}; {card.origin})",
            )

    def find_price(self, card: ModelCard | None) -> PriceSpec | None:
        """Return the price of a request, if the section or the model's card names one."""
        return None if card is None else card.facts(self.kind).price

    def unread_columns(self, spec: JobSpec, fields: Iterable[str]) -> Iterator[Problem]:
        """Yield the fields that rows set for themselves and that this backend is known to ignore."""
        return iter(())

    def unread_by(self, settled: Mapping[str, Any], spec: JobSpec) -> Iterator[Problem]:
        """Yield what a job asks for and the backend ignores, by what it settled (`VisionBackend.settle`)."""
        return iter(())
