"""The blocking interface: many requests in flight on a loop of its own, and every outcome in its place."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import urlsplit

from abstractvision_batch.backends.base_backend import (
    NOT_BEGUN,
    BatchItem,
    Cancelled,
    ProgressCallback,
    keep_finished,
)
from abstractvision_batch.backends.batch_backend import BatchBackend
from abstractvision_batch.backends.choices import Choice
from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig, config_from_fields
from abstractvision_batch.backends.openai_compatible.dialects import CALL_EXTRAS, DIALECTS, Dialect
from abstractvision_batch.backends.openai_compatible.event_loop import LoopThread
from abstractvision_batch.backends.openai_compatible.settlement import (
    Settlement,
    describe,
    describe_unknown,
)
from abstractvision_batch.backends.shared_limit import Exchange
from abstractvision_batch.backends.table import require_extra
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    GenerationCancelledError,
    GenerationError,
)
from abstractvision_batch.types import (
    TASK_OF_REQUEST,
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ProviderModelInfo,
    Task,
    VisionBackendCapabilities,
    VisionRequest,
)

if TYPE_CHECKING:
    from abstractvision_batch.backends.openai_compatible.session import HttpRequest, Session

Value = TypeVar("Value")


class OpenAICompatibleVisionBackend(BatchBackend):
    """Generates on a server that speaks OpenAI's API. May be called from several threads."""

    def __init__(self, config: OpenAICompatibleBackendConfig) -> None:
        """Take the configuration; nothing is sent yet.

        Raises:
            OptionalDependencyMissingError: httpx is not installed.
        """
        require_extra("openai")
        self.config = config
        self._lock = threading.Lock()
        self._running: tuple[LoopThread, Session] | None = None
        self._shared: tuple[Exchange | None, str] = (None, "this")
        self._settled: Settlement | None = None
        self._unasked: Mapping[str, Any] = {}
        self._finalizer: weakref.finalize[..., Any] | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str) -> Self:
        """Make the backend that a job describes; secrets are looked up now.

        Raises:
            SpecError: an environment variable that holds a secret is not set.
        """
        return cls(config_from_fields(fields, card_facts=card_facts, model=model))

    def generate_images(self, request: ImageGenerationRequest | ImageEditRequest) -> list[GeneratedAsset]:
        """Generate the `extra.n` images of one call."""
        self._require([request])
        return self._call(lambda session: session.generate(request, several=True))

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        """Generate many requests at once, as many in flight as the server bears; a server reports no steps.

        Raises:
            DependencyError: key, account or model are wrong, and no request has a result.
        """
        self._require(requests)
        items: list[BatchItem | None] = [None] * len(requests)
        stopped = asyncio.Event()

        def poll(loop: asyncio.AbstractEventLoop) -> None:
            if cancelled is not None and cancelled():
                loop.call_soon_threadsafe(stopped.set)

        if cancelled is not None and cancelled():
            stopped.set()
        if requests:
            self._call(
                lambda session: _generate_all(session, cast("Sequence[HttpRequest]", requests), items, stopped),
                on_wait=None if cancelled is None else poll,
            )
        return keep_finished([one for one in items if one is not None])

    def get_capabilities(self) -> VisionBackendCapabilities:
        """Images always; masks where the server reads them, as far as is known; videos where it is said how."""
        dialect = self._dialect
        mask = dialect is None or dialect.edits.mask is not None
        return VisionBackendCapabilities(supported_tasks=list(self.config.tasks(dialect)), supports_mask=mask)

    def list_provider_models(self, *, task: str | None = None) -> Sequence[ProviderModelInfo]:
        """List the server's models, those that do `task` as far as it says; never changes the configured model."""
        return self._call(lambda session: session.list_models(task))

    @classmethod
    def list_extras(cls) -> tuple[Choice, ...]:
        """What the dialects read; those that are not here pass every field on."""
        dialects: dict[str, list[str]] = {}
        for name, dialect in DIALECTS.items():
            endpoints = (dialect.generations, dialect.edits, dialect.videos, dialect.video_job)
            read = {extra for endpoint in endpoints if endpoint is not None for extra in endpoint.extra or ()}
            for extra in sorted(read):
                dialects.setdefault(extra, []).append(name)
        of_calls = (Choice(name) for name in sorted(CALL_EXTRAS))
        return (*of_calls, *(Choice(name, " ".join(readers)) for name, readers in sorted(dialects.items())))

    def environment(self) -> dict[str, Any]:
        """Describe the server; what it runs on is not known here."""
        from abstractvision_batch.backends.openai_compatible.transport import HTTP_VERSION

        parts = urlsplit(self.config.base_url)
        dialect = self._dialect
        return {
            "device": f"remote:{parts.netloc}",
            "served_model": self.config.model_id,
            "dialect": None if dialect is None else dialect.name,
            "server": {} if self._settled is None else dict(self._settled.says),
            "versions": {"httpx": HTTP_VERSION},
        }

    def share_limit(self, exchange: Exchange, worker: str) -> None:
        """Have `max_concurrency` requests in flight together with the other workers that share this limit."""
        self._shared = (exchange, worker)

    def settle(
        self, known: Mapping[str, Any] | None = None, *, unasked: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask the server what it is, to find out now that it is missing, refuses the key or is not the run's.

        Raises:
            DependencyError: it cannot be reached, refuses the key, or is another than `known`.
            StorageError: `known` is damaged, or of a later version.
        """
        if unasked is not None and unasked != self._unasked:
            self.unload()  # its session has the former ones
            self._unasked = unasked
        recorded = None if known is None else Settlement.from_json(known)
        self._settled = self._call(lambda session: session.settle(recorded))
        return self._settled.to_json()

    def describe_settlement(self) -> tuple[str, bool]:
        """How the server is spoken to, in a line, and whether that is a guess."""
        if self._settled is None:
            return "", False
        guess = describe_unknown(self._settled, self.config)
        return guess or describe(self._settled, self.config), guess is not None

    def preload(self, task: Task | None = None) -> None:
        """Ask the server what it is, unless that was done.

        Raises:
            DependencyError: it cannot be reached, or refuses the key.
        """
        if self._settled is None:
            self.settle()

    def unload(self) -> None:
        """Close every connection; the next request opens them again."""
        with self._lock:
            finalizer, self._finalizer, self._running = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    @property
    def _dialect(self) -> Dialect | None:
        """The server's, as far as it is known."""
        return self.config.known_dialect if self._settled is None else self._settled.dialect

    def _require(self, requests: Sequence[VisionRequest]) -> None:
        tasks = self.config.tasks(self._dialect)
        for task in {TASK_OF_REQUEST[type(request)] for request in requests}:
            if task not in tasks:
                hint = "set text_to_video_path or image_to_video_path, or video_mode: videos_api"
                raise CapabilityNotSupportedError(
                    f"openai: {task}: this backend is configured for {', '.join(tasks)}"
                    + (f" ({hint})" if task.endswith("video") else "")
                )

    def _call(
        self,
        work: Callable[[Session], Coroutine[Any, Any, Value]],
        *,
        on_wait: Callable[[asyncio.AbstractEventLoop], None] | None = None,
    ) -> Value:
        loop_thread, session = self._started()
        return loop_thread.call(work(session), on_wait=on_wait)

    def _started(self) -> tuple[LoopThread, Session]:
        with self._lock:
            if self._running is None:
                from abstractvision_batch.backends.openai_compatible.session import Session

                exchange, worker = self._shared

                async def open_session() -> Session:
                    return Session(
                        self.config, exchange=exchange, worker=worker, settled=self._settled, unasked=self._unasked
                    )

                loop_thread = LoopThread("openai-backend")
                session = loop_thread.call(open_session())
                # Also when it is forgotten, or the interpreter ends: threads and sockets are no garbage.
                self._finalizer = weakref.finalize(self, _stop, loop_thread, session)
                self._running = (loop_thread, session)
            return self._running


def _stop(loop_thread: LoopThread, session: Session) -> None:
    loop_thread.stop(session.close())


async def _generate_all(
    session: Session, requests: Sequence[HttpRequest], items: list[BatchItem | None], stopped: asyncio.Event
) -> None:
    """Fill `items`. What still runs when `stopped` is set is cancelled.

    An error that no request would survive ends the batch: what is in flight finishes, what waits for its turn is not
    begun.
    """
    from abstractvision_batch.backends.openai_compatible.retries import AttemptCounts

    all_counts = [AttemptCounts() for _ in requests]
    fatal = asyncio.Event()

    async def generate(index: int) -> None:
        try:
            items[index] = (await session.generate(requests[index], counts=all_counts[index]))[0]
        except GenerationError as error:
            items[index] = error
        except DependencyError as error:
            items[index] = error
            fatal.set()

    work = [asyncio.create_task(generate(index)) for index in range(len(requests))]
    everything = asyncio.gather(*work, return_exceptions=True)
    stop, end = asyncio.create_task(stopped.wait()), asyncio.create_task(fatal.wait())
    ends: list[asyncio.Future[Any]] = [everything, stop]
    try:
        await asyncio.wait([*ends, end], return_when=asyncio.FIRST_COMPLETED)
        if fatal.is_set():
            for task, counts in zip(work, all_counts, strict=True):
                counts.last = True
                if not counts.sending:
                    task.cancel()  # does nothing to one that has its result
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for running in (*work, stop, end):
            running.cancel()
        ended = await asyncio.gather(*work, return_exceptions=True)
        await asyncio.gather(everything, stop, end, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):  # a fault of ours
            raise error
    why = NOT_BEGUN if fatal.is_set() else "openai: cancelled by the caller"
    for index, counts in enumerate(all_counts):
        if items[index] is None:
            items[index] = GenerationCancelledError(why, begun=counts.attempts > 0)
