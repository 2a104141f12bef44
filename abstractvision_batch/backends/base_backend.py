"""What generates: the interface every backend implements.

A backend sees requests and returns assets. It knows neither Ray nor stores nor job specs, so it works in
`VisionManager` alone and in a batch alike.

Not covered: which backends there are (`table`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from abstractvision_batch.backends.choices import Choice, ModelChoices
from abstractvision_batch.backends.shared_limit import Exchange
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    GenerationCancelledError,
    GenerationError,
)
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.storage.hub import HubPart
from abstractvision_batch.types import (
    MORE_PICTURES,
    Fit,
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    ProviderModelInfo,
    Task,
    VideoGenerationRequest,
    VisionBackendCapabilities,
    VisionRequest,
)

#: Why a request of a batch was not begun that a neighbour's error ended.
NOT_BEGUN = "not begun: an error that no request would survive ended the batch"
#: Called with (step, total steps or None) after each step, counted from 1.
ProgressCallback = Callable[[int, int | None], None]
#: Polled between steps; true means that the caller no longer wants the result.
Cancelled = Callable[[], bool]
#: One request's outcome in a batch: an asset, the views of a multi_view_image request, or why there is none.
BatchItem = GeneratedAsset | list[GeneratedAsset] | GenerationError | DependencyError


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A request that was generated, with what a program needs to do it again."""

    request_id: str
    request: VisionRequest
    """Without the bytes of its images."""
    image: str | None
    """Path or URL of the input image."""
    mask: str | None
    width: int
    """Of what was generated, in pixels."""
    height: int
    frames: int
    content_type: str
    pixel_sha256: str | None
    metadata: Mapping[str, Any]
    """As the backend wrote it."""
    fit: Fit = "stretch"
    """How its images came to their size."""


class VisionBackend(ABC):
    """Generates images and videos. Not thread-safe: one call at a time."""

    @abstractmethod
    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        """Generate an image from a prompt."""

    @abstractmethod
    def edit_image(self, request: ImageEditRequest) -> GeneratedAsset:
        """Generate an image from an image and a prompt."""

    @abstractmethod
    def generate_angles(self, request: MultiAngleRequest) -> list[GeneratedAsset]:
        """Generate one image per angle, in the order of the request's angles."""

    @abstractmethod
    def generate_video(self, request: VideoGenerationRequest) -> GeneratedAsset:
        """Generate a video from a prompt."""

    @abstractmethod
    def image_to_video(self, request: ImageToVideoRequest) -> GeneratedAsset:
        """Generate a video that starts from an image."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str) -> Self:
        """Make the backend that a job describes.

        Args:
            fields: The typed fields of the job's `backend` section, without `kind`.
            card_facts: What the model's card says for this backend; empty if it says nothing.
            model: The model's id.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be used from a job spec")

    def generate_image_with_progress(
        self, request: ImageGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        """Generate an image; a backend without progress ignores the callback."""
        return self.generate_image(request)

    def edit_image_with_progress(
        self, request: ImageEditRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        """Edit an image; a backend without progress ignores the callback."""
        return self.edit_image(request)

    def generate_video_with_progress(
        self, request: VideoGenerationRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        """Generate a video; a backend without progress ignores the callback."""
        return self.generate_video(request)

    def image_to_video_with_progress(
        self, request: ImageToVideoRequest, progress_callback: ProgressCallback | None = None
    ) -> GeneratedAsset:
        """Generate a video from an image; a backend without progress ignores the callback."""
        return self.image_to_video(request)

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        """Generate many requests; one that fails leaves its neighbours alone.

        An error that no request would survive, as an empty account, ends the batch: it is the item of the request that
        met it, requests in flight finish, and no other is begun (`GenerationCancelledError`, `begun` is false). So what
        has been generated, and perhaps paid for, reaches the caller, who starts no further batch.

        The default runs one after the other. A backend that can do better overrides it, and returns its items through
        `keep_finished`.

        Returns:
            One item per request in their order; a list of assets only for a multi_view_image request. Images may come
            as `RAW_RGB_MIME_TYPE`. An asset that the same requests would not give again to the bit says so in its
            metadata: `reproducibility` is `perceptual`, `seeded-remote` or `unseeded`.

        Raises:
            CapabilityNotSupportedError: the backend does not offer a request's task.
            DependencyError: the model or a package is missing, and no request of the batch has a result.
        """
        return generate_in_turn(
            requests, lambda request: self._generate(request, _polling(cancelled, on_step)), cancelled=cancelled
        )

    def get_capabilities(self) -> VisionBackendCapabilities | None:
        """Say what this backend can do; None means that it knows no limits."""
        return None

    def list_provider_models(self, *, task: str | None = None) -> Sequence[ProviderModelInfo]:
        """List the models that the backend's provider offers, if it has a catalog."""
        return ()

    def derive_card(self) -> ModelCard | None:
        """Describe a model that has no card, by its files, loading nothing; None where the backend cannot tell.

        Raises:
            DependencyError: the model is not there, or is of a kind that the backend does not run.
        """
        return None

    def environment(self) -> dict[str, Any]:
        """Describe what the pixels depend on beside the request, as plain JSON values; complete once it is preloaded.

        `device` and `device_name` go into every row of a job; the rest (dtype, threads, switches, the native library)
        into the description of its worker.
        """
        return {}

    def weights(self, task: Task | None = None) -> Weights | None:
        """Hash the files that requests of `task` load, without loading or downloading them; None where there are none.

        Raises:
            DependencyError: a file is not there.
        """
        return None

    def hub_parts(self, task: Task | None = None) -> Iterator[HubPart]:
        """Name what requests of `task`, or of any, need from the Hugging Face hub; nothing is asked of it yet."""
        return iter(())

    def batch_tolerance_db(self) -> float | None:
        """PSNR in dB that a request of a batch keeps to the same request generated alone, at the least.

        None where requests share no forward pass, so that nothing of a batch can reach its neighbours.
        """
        return None

    def write_program(self, rows: Sequence[ProgramRow], slot: int) -> str:
        """A Python program that generates `rows[slot]` as this batch did, without this package.

        Raises:
            CapabilityNotSupportedError: there is none for this backend, or for how it is configured.
        """
        raise CapabilityNotSupportedError(f"{type(self).__name__}: its requests cannot be written as a program")

    def check_ready(self) -> None:  # noqa: B027 - a hook, not a duty
        """Check cheaply, loading nothing, that what the first request needs is there.

        Raises:
            DependencyError: a model, a program or a key is missing.
        """

    def settle(
        self, known: Mapping[str, Any] | None = None, *, unasked: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Find out what all workers of a run have to agree on, such as what kind of server it is.

        Args:
            known: What an earlier worker of the run found; it is kept to.
            unasked: Values that requests have without anybody having asked for them; None where it may be any.

        Returns:
            Plain JSON values for the run's record; None where there is nothing to agree on.

        Raises:
            DependencyError: it is missing, or another than `known`.
        """
        return None

    def describe_settlement(self) -> tuple[str, bool]:
        """What was settled, in a line, and whether that is a guess."""
        return "", False

    def find_problems(self, task: Task, extra: Mapping[str, Any]) -> list[tuple[FieldPath, str]]:
        """Say what is wrong with the backend's own fields and with `extra`, loading nothing.

        Returns:
            The path of the spec's field, and the message, for each; none where only the loaded model can tell.
        """
        return []

    @classmethod
    def list_extras(cls) -> tuple[Choice, ...]:
        """Return what requests may say in `extra` whatever the model is; none where the backend does not tell."""
        return ()

    def describe_choices(self) -> ModelChoices | None:
        """Return what requests for its model may choose, loading nothing; None where nothing here tells.

        Raises:
            DependencyError: the model is not here.
        """
        return None

    def count_cut_tokens(self, task: Task, prompts: Iterable[str], extra: Mapping[str, Any]) -> Iterator[int]:
        """Count how many tokens of each prompt the model does not read, loading nothing; none where it cannot tell."""
        return iter(())

    def share_limit(self, exchange: Exchange, worker: str) -> None:  # noqa: B027 - a hook, not a duty
        """Share the limit of requests in flight at a server with other workers; call it before the first request.

        Args:
            exchange: The way to the limit.
            worker: This worker's name there.
        """

    def preload(self, task: Task | None = None) -> None:  # noqa: B027 - a hook, not a duty
        """Load what the first request would load, a request of `task` if it is given. May be called more than once."""

    def unload(self) -> None:  # noqa: B027 - a hook, not a duty
        """Free what was loaded; the next request loads it again. May be called more than once."""

    def close(self) -> None:
        """Free everything. May be called more than once."""
        self.unload()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _generate(
        self, request: VisionRequest, progress_callback: ProgressCallback | None
    ) -> GeneratedAsset | list[GeneratedAsset]:
        refuse_unread(request, (self.get_capabilities() or VisionBackendCapabilities()).pictures)
        match request:
            case ImageGenerationRequest():
                return self.generate_image_with_progress(request, progress_callback)
            case ImageEditRequest():
                return self.edit_image_with_progress(request, progress_callback)
            case MultiAngleRequest():
                return self.generate_angles(request)
            case VideoGenerationRequest():
                return self.generate_video_with_progress(request, progress_callback)
            case ImageToVideoRequest():
                return self.image_to_video_with_progress(request, progress_callback)


def refuse_unread(request: VisionRequest, taken: Collection[str]) -> None:
    """Refuse pictures that a backend would ignore, because it takes `taken` of `MORE_PICTURES` alone.

    Raises:
        GenerationError: the request has others.
    """
    for name in MORE_PICTURES:
        if getattr(request, name, None) and name not in taken:
            raise GenerationError(f"{name}: this model takes none, as this backend runs it (leave it out)")


def generate_in_turn(
    requests: Sequence[VisionRequest],
    generate: Callable[[VisionRequest], GeneratedAsset | list[GeneratedAsset]],
    *,
    cancelled: Cancelled | None = None,
) -> list[BatchItem]:
    """Generate requests one after the other, by the rules of `generate_batch`."""
    items: list[BatchItem] = []
    ended: str | None = None
    for request in requests:
        if ended is None and cancelled is not None and cancelled():
            ended = "cancelled by the caller"
        if ended is not None:
            items.append(GenerationCancelledError(ended, begun=False))
            continue
        try:
            items.append(generate(request))
        except GenerationError as error:
            items.append(error)
        except DependencyError as error:
            items.append(error)
            ended = NOT_BEGUN
    return keep_finished(items)


def keep_finished(items: Sequence[BatchItem]) -> list[BatchItem]:
    """Return a batch's items, if any request of it has a result, or if nothing ended it.

    Raises:
        DependencyError: that of the batch, where it is all there is.
    """
    ended = next((item for item in items if isinstance(item, DependencyError)), None)
    if ended is not None and not any(has_result(item) for item in items):
        raise ended
    return list(items)


def has_result(item: BatchItem) -> bool:
    """Return whether a request succeeded or failed by itself, so that it need not be asked for again."""
    return not isinstance(item, DependencyError | GenerationCancelledError)


def _raise_if_cancelled(cancelled: Cancelled | None) -> None:
    if cancelled is not None and cancelled():
        raise GenerationCancelledError("cancelled by the caller")


def _polling(cancelled: Cancelled | None, on_step: ProgressCallback | None) -> ProgressCallback | None:
    """Return a progress callback that also ends the generation once it is cancelled."""
    if cancelled is None:
        return on_step

    def step(number: int, total: int | None) -> None:
        if on_step is not None:
            on_step(number, total)
        _raise_if_cancelled(cancelled)

    return step
