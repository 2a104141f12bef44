"""What a worker is told once, before its first shard: everything but prompts and pixels. Picklable."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.table import create_backend
from abstractvision_batch.errors import (
    AbstractVisionError,
    CapabilityNotSupportedError,
    DependencyError,
    RunStoppedError,
    SpecError,
)
from abstractvision_batch.execute.executor_choice import INLINE, ExecutorChoice
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.prices import PriceSpec
from abstractvision_batch.runs.columns import FAILED
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.runs.shard_rows import Batches, Retry, ShardRows, rows_to_run
from abstractvision_batch.storage.store import Store, open_store

logger = logging.getLogger(__name__)

#: Each is a thread that waits.
MAX_SHARDS_AT_ONCE = 32


class ServerLimit(NamedTuple):
    """Requests that all workers together may have in flight at a server."""

    url: str
    requests: int


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run. The options hold secrets, resolved by the driver, and are never printed or stored."""

    url: str
    spec: JobSpec
    backend: BackendSection
    """As `spec.backend`, with local paths made absolute."""
    card: ModelCard
    plan: PlanSummary
    model_folder: str = ""
    """Of the run, with what is recorded of the model; of a job with variants, each has its own."""
    store_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    prompt_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    signed_images: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Whole URLs of input images by those of the plan, which lack what gives access."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables of workers that are secrets. Ray logs those it is told of, so it is not told of these."""
    choice: ExecutorChoice = INLINE
    """What runs the shards, and why."""
    retry: Retry | None = None
    """Run rows that failed again; by default shards are run whole."""
    only: Batches | None = None
    """Batches that are asked for; by default all of the plan."""
    variant: str | None = None
    """The name of the variant that this is of, where the job has any."""

    @property
    def price(self) -> PriceSpec | None:
        """What a request costs, as far as anybody says."""
        return self.spec.backend.find_price(self.card)

    @property
    def has_brake(self) -> bool:
        """Whether the run stops when everything fails; a retry was asked to run what failed."""
        again = self.retry is not None and self.retry.status == FAILED
        return self.spec.execution.stop_when_all_fail and not again

    @property
    def shards_at_once(self) -> int:
        """Shards that one process has to run at once to keep a server busy.

        A batch ends with its slowest request, when nothing of it waits any more; others have to, then. Simulated with
        16 at once, batches of 16 and requests of 0.5 to 2 s: one shard uses 63 % of the server, two 92 %, three 96 %.
        """
        in_flight = self.backend.max_in_flight
        if in_flight is None:
            return 1
        return min(MAX_SHARDS_AT_ONCE, math.ceil(in_flight / self.plan.batch_size) + 2)

    @property
    def server_limit(self) -> ServerLimit | None:
        """The limit of its server; None where workers generate themselves."""
        in_flight = self.backend.max_in_flight
        return None if in_flight is None else ServerLimit(self.backend.server_url or "", in_flight)

    def read_rows(self, store: Store, shard: int) -> ShardRows:
        """Read a shard's rows that are to be run.

        Raises:
            StorageError: the plan or a part cannot be read.
        """
        return rows_to_run(store, self.plan, shard, self.retry, self.only)

    def open_store(self) -> Store:
        """The run's store, opened anew: file systems do not travel between processes."""
        return open_store(self.url, self.store_options)

    def create_backend(self) -> VisionBackend:
        """The job's backend, not loaded yet."""
        return create_backend(self.backend, card=self.card, model=self.spec.model)


#: What runs: contexts of variants with their shards, in the order of the plan; a run without variants has one.
Variants = Sequence[tuple[RunContext, Sequence[int]]]
#: What ends the work on one variant, and not that on the others.
FAILED_VARIANT = (CapabilityNotSupportedError, DependencyError, RunStoppedError, SpecError)


def name_failed_variant(context: RunContext, error: AbstractVisionError) -> AbstractVisionError:
    """Return an error that ended the work on a variant, with its name; without variants, the error itself."""
    if context.variant is None:
        return error
    named = error.with_message(f"variant {context.variant}: {error}")
    logger.warning("%s: the other variants go on", named)
    return named


def worker_name() -> str:
    """Which process did the work, for the manifest: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"
