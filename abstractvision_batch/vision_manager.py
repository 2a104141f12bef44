"""One call from a prompt to a stored image or video: check, generate, store.

    manager = VisionManager(backend=backend, store=LocalAssetStore())
    ref = manager.generate_image("a lighthouse", width=512, height=512, seed=7)

Every method takes the fields of its request as keywords, `extra` for what only the backend knows, and
`progress_callback`. Everything wrong with a call is one error, raised before the backend sees it. With `model_id`, the
call is checked against the model's card; of the card's values only a `const` and the default of a required parameter
are filled in: other defaults are the backend's own. An input picture is brought to the size that is asked for as `fit`
says; where only one of width and height is, the other follows from the picture.

Without a store a method returns a `GeneratedAsset`, with one the reference to the stored artifact. Either way
`metadata["generation"]` says what made it. `generate_image_batch` and its like ask for one prompt under several seeds,
in one call of the backend. Not covered: many prompts (`run`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from abstractvision_batch.artifacts import MediaStore, json_safe, sha256_hex
from abstractvision_batch.backends.base_backend import BatchItem, ProgressCallback, VisionBackend
from abstractvision_batch.backends.foreign_backend import as_backend
from abstractvision_batch.errors import (
    BackendNotConfiguredError,
    CapabilityNotSupportedError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
    PartialBatchError,
)
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.request_check import InvalidRequestError, build_request
from abstractvision_batch.text.redaction import without_secrets
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
from abstractvision_batch.version import __version__

#: What a side is rounded to where no card says it: what a VAE scales by at least.
_SIDE_MULTIPLE = 8
#: An asset where there is no store, a reference where there is one.
Output = GeneratedAsset | dict[str, Any]


@dataclass
class VisionManager:
    """Checks a call, lets the backend generate, and stores what came.

    Args:
        backend: what generates, or any object with its methods; without one every method raises
            BackendNotConfiguredError.
        store: where media go; None returns them.
        model_id: the model whose card calls are checked against; None checks no card.
        registry: the cards; the packaged ones unless given.
        fit: how an input picture comes to a size of another aspect: `crop`, `pad`, or `stretch` as in the older
            library; `error` refuses it.
    """

    backend: VisionBackend | None = None
    store: MediaStore | None = None
    model_id: str | None = None
    registry: VisionModelCapabilitiesRegistry | None = None
    fit: Fit = "stretch"

    def __post_init__(self) -> None:
        self._card_registry()

    def generate_image(
        self, prompt: str, *, progress_callback: ProgressCallback | None = None, **params: Any
    ) -> Output:
        """Generate an image from a prompt (`ImageGenerationRequest`)."""
        return self._generate_one("text_to_image", {"prompt": prompt, **params}, progress_callback)

    def edit_image(
        self, prompt: str, image: bytes, *, progress_callback: ProgressCallback | None = None, **params: Any
    ) -> Output:
        """Change an encoded image as a prompt says (`ImageEditRequest`)."""
        values = {"prompt": prompt, "image": image, **params}
        return self._generate_one("image_to_image", values, progress_callback)

    def generate_angles(self, prompt: str, **params: Any) -> list[Output]:
        """Generate one image per angle (`MultiAngleRequest`), in the order of the angles."""
        return self._generate("multi_view_image", {"prompt": prompt, **params}, None)

    def generate_video(
        self, prompt: str, *, progress_callback: ProgressCallback | None = None, **params: Any
    ) -> Output:
        """Generate a video from a prompt (`VideoGenerationRequest`)."""
        return self._generate_one("text_to_video", {"prompt": prompt, **params}, progress_callback)

    def image_to_video(
        self, image: bytes, *, progress_callback: ProgressCallback | None = None, **params: Any
    ) -> Output:
        """Generate a video that starts from an encoded image (`ImageToVideoRequest`)."""
        return self._generate_one("image_to_video", {"image": image, **params}, progress_callback)

    def generate_image_batch(
        self, prompt: str, *, count: int = 1, seeds: Sequence[int] | None = None, **params: Any
    ) -> list[Output]:
        """Generate `count` images from one prompt, in one call of the backend.

        Args:
            prompt: Of all of them.
            count: How many.
            seeds: One per image; by default `seed` and the ones that follow it, from a random one where none is given.
            params: Fields of `ImageGenerationRequest`.

        Raises:
            PartialBatchError: a request failed; its `outputs` has what the others gave, stored where there is a store.
        """
        return self._generate_batch("text_to_image", {"prompt": prompt, **params}, count, seeds)

    def edit_image_batch(
        self, prompt: str, image: bytes, *, count: int = 1, seeds: Sequence[int] | None = None, **params: Any
    ) -> list[Output]:
        """Change an encoded image `count` times (`ImageEditRequest`); as `generate_image_batch`."""
        return self._generate_batch("image_to_image", {"prompt": prompt, "image": image, **params}, count, seeds)

    def generate_video_batch(
        self, prompt: str, *, count: int = 1, seeds: Sequence[int] | None = None, **params: Any
    ) -> list[Output]:
        """Generate `count` videos from one prompt (`VideoGenerationRequest`); as `generate_image_batch`."""
        return self._generate_batch("text_to_video", {"prompt": prompt, **params}, count, seeds)

    def image_to_video_batch(
        self, image: bytes, *, count: int = 1, seeds: Sequence[int] | None = None, **params: Any
    ) -> list[Output]:
        """Generate `count` videos from an encoded image (`ImageToVideoRequest`); as `generate_image_batch`."""
        return self._generate_batch("image_to_video", {"image": image, **params}, count, seeds)

    def list_provider_models(self, *, task: str | None = None) -> list[ProviderModelInfo]:
        """List the models of the backend's provider; empty for a backend without a catalog."""
        return list(self._backend().list_provider_models(task=task))

    def _generate_one(
        self, task: Task, values: Mapping[str, Any], progress_callback: ProgressCallback | None
    ) -> Output:
        (output,) = self._generate(task, values, progress_callback)
        return output

    def _generate(
        self, task: Task, values: Mapping[str, Any], progress_callback: ProgressCallback | None
    ) -> list[Output]:
        backend = self._backend()
        (request,) = self._requests(backend, task, [values])
        started_at, start = datetime.now(UTC), time.monotonic()
        assets = _call(backend, self._fitted(task, request), progress_callback)
        return self._keep(backend, request, task, assets, started_at, time.monotonic() - start)

    def _generate_batch(
        self, task: Task, values: Mapping[str, Any], count: int, seeds: Sequence[int] | None
    ) -> list[Output]:
        backend = self._backend()
        each = [{**values, "seed": seed} for seed in _seeds(task, count, seeds, values.get("seed"))]
        requests = self._requests(backend, task, each)
        started_at, start = datetime.now(UTC), time.monotonic()
        items: list[BatchItem] = backend.generate_batch([self._fitted(task, request) for request in requests])
        latency_s = time.monotonic() - start
        outputs: list[Output | None] = []
        first: GenerationError | DependencyError | None = None
        for request, item in zip(requests, items, strict=True):
            try:
                if isinstance(item, GenerationError | DependencyError):
                    raise item
                assets = item if isinstance(item, list) else [item]
                outputs += self._keep(backend, request, task, assets, started_at, latency_s)
            except (GenerationError, DependencyError) as error:
                first = first or error
                outputs.append(None)
        if first is not None:
            failed = outputs.count(None)
            raise PartialBatchError(f"{failed} of {len(outputs)} failed: {first}", outputs=tuple(outputs)) from first
        return [output for output in outputs if output is not None]

    def _requests(
        self, backend: VisionBackend, task: Task, several: Sequence[Mapping[str, Any]]
    ) -> list[VisionRequest]:
        """Build the requests after checking that the model and the backend can do the task."""
        card = None
        if self.model_id and (registry := self._card_registry()):
            registry.require_support(self.model_id, task)
            card = registry.card(self.model_id)
        capabilities = backend.get_capabilities()
        supported = capabilities.supported_tasks if capabilities else None
        if supported is not None and task not in supported:
            can = ", ".join(supported) or "none"
            raise CapabilityNotSupportedError(f"{type(backend).__name__}: cannot do {task} (its tasks: {can})")
        limits = capabilities or VisionBackendCapabilities()
        return [build_request(task, values, card=card, capabilities=limits) for values in several]

    def _fitted(self, task: Task, request: VisionRequest) -> VisionRequest:
        """Return what the backend is given: pictures at the size that is asked for."""
        registry = self._card_registry() if self.model_id else None
        card = registry.card(self.model_id) if registry is not None and self.model_id else None
        return _fit_inputs(request, self.fit, task, card)

    def _keep(
        self,
        backend: VisionBackend,
        request: VisionRequest,
        task: Task,
        made: Sequence[GeneratedAsset],
        started_at: datetime,
        latency_s: float,
    ) -> list[Output]:
        """Check what a request gave, add what made it, and store it where there is a store."""
        assets = [_checked(asset, task) for asset in made]
        if not assets:
            raise InvalidOutputError(f"{type(backend).__name__}: {task} answered with no image")
        made_by = {
            "task": task,
            "model": self.model_id or assets[0].metadata.get("model_id"),
            "backend": type(backend).__name__,
            "environment": backend.environment(),
            **_described(request),
            "started_at": started_at.isoformat(),
            "latency_s": round(latency_s, 6),
            "abstractvision_batch_version": __version__,
        }
        return [self._store(_with_generation(asset, made_by), task) for asset in assets]

    def _backend(self) -> VisionBackend:
        if self.backend is None:
            raise BackendNotConfiguredError("VisionManager: no backend (pass backend=)")
        return as_backend(self.backend)

    def _card_registry(self) -> VisionModelCapabilitiesRegistry | None:
        if self.model_id and self.registry is None:
            self.registry = VisionModelCapabilitiesRegistry()
        return self.registry

    def _store(self, asset: GeneratedAsset, task: Task) -> Output:
        if self.store is None:
            return asset
        return self.store.store_bytes(
            asset.data,
            content_type=asset.mime_type,
            metadata=asset.metadata,
            tags={"kind": "generated_media", "modality": asset.media_type, "task": task},
        )


def _fit_inputs(request: VisionRequest, fit: Fit, task: Task, card: ModelCard | None) -> VisionRequest:
    """Return the request with its picture and mask at the size that is asked for, as a job has them.

    Raises:
        InvalidRequestError: the picture has another aspect than the size, and `fit` is `error`.
        InputImageError: the picture or the mask is of no use.
    """
    name = "reference_image" if isinstance(request, MultiAngleRequest) else "image"
    data: bytes | None = getattr(request, name, None)
    sides = [side for side in (request.width, request.height) if side is not None]
    if not data or not sides or (fit == "stretch" and len(sides) == 2):  # which backends do themselves
        return request
    # These import Pillow and the job spec.
    from abstractvision_batch.media.inputs import prepare_mask, prepare_picture, read_picture
    from abstractvision_batch.prompts.sizes import complete_size, same_aspect

    rules = card.tasks[task].params if card is not None else {}
    multiples = tuple(
        (rules[side].multiple_of or 1) if side in rules else _SIDE_MULTIPLE for side in ("width", "height")
    )
    picture = read_picture(data, name=name).size
    if request.width is None or request.height is None:
        size = complete_size(picture, request.width, request.height, multiples)
    else:
        size = (request.width, request.height)
        if fit == "error" and not same_aspect(picture, size, multiples):
            here, there = (f"{width}x{height}" for width, height in (picture, size))
            line = (
                f"{task}: {name}: {here} has another aspect than {there} (choose a fit of crop, pad or stretch, or "
                "give one of width and height: the other follows from the picture)"
            )
            raise InvalidRequestError(line, problems=(line,))
    changes: dict[str, Any] = {name: prepare_picture(data, size, fit, name=name), "width": size[0], "height": size[1]}
    if isinstance(request, ImageEditRequest) and request.mask is not None:
        changes["mask"] = prepare_mask(request.mask, size, fit)
    return replace(request, **changes)


def _call(
    backend: VisionBackend, request: VisionRequest, progress_callback: ProgressCallback | None
) -> list[GeneratedAsset]:
    match request:
        case ImageGenerationRequest():
            if progress_callback is None:
                return [backend.generate_image(request)]
            return [backend.generate_image_with_progress(request, progress_callback)]
        case ImageEditRequest():
            if progress_callback is None:
                return [backend.edit_image(request)]
            return [backend.edit_image_with_progress(request, progress_callback)]
        case MultiAngleRequest():
            return backend.generate_angles(request)
        case VideoGenerationRequest():
            if progress_callback is None:
                return [backend.generate_video(request)]
            return [backend.generate_video_with_progress(request, progress_callback)]
        case ImageToVideoRequest():
            if progress_callback is None:
                return [backend.image_to_video(request)]
            return [backend.image_to_video_with_progress(request, progress_callback)]


def _seeds(task: Task, count: int, seeds: Sequence[int] | None, first: Any) -> list[int]:
    """Return the seed of each request of a batch.

    Raises:
        CapabilityNotSupportedError: `count` and `seeds` disagree, or there is nothing to generate.
    """
    if seeds is not None:
        if len(seeds) != count and count != 1:
            raise CapabilityNotSupportedError(f"{task}: seeds: {len(seeds)} for count {count} (give one per output)")
        chosen = [int(seed) for seed in seeds]
    else:
        start = random.SystemRandom().randrange(2**31) if first is None else int(first)
        chosen = [start + number for number in range(count)]
    if not chosen:
        raise CapabilityNotSupportedError(f"{task}: count: {count} outputs (at least 1)")
    return chosen


def _checked(asset: GeneratedAsset, task: Task) -> GeneratedAsset:
    """Return the asset encoded, and with the type that its bytes say, since servers say what they like."""
    from abstractvision_batch.backends.batch_backend import as_file  # imports Pillow
    from abstractvision_batch.media.probe import sniff_mime_type

    if not asset.data:
        raise InvalidOutputError(f"{task}: the backend answered with no bytes")
    asset = as_file(asset)
    return replace(asset, mime_type=sniff_mime_type(asset.data) or asset.mime_type)


def _described(request: VisionRequest) -> dict[str, Any]:
    """Return what was asked for: values as they are, images by their hash, secrets not at all."""
    parameters: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        if isinstance(value, bytes):
            inputs[field.name] = _digest(value)
        elif field.name in MORE_PICTURES:
            inputs |= {field.name: [*map(_digest, value)]} if value else {}
        elif field.name == "extra":
            parameters |= {"extra": without_secrets(value)} if value else {}
        elif value is not None:
            parameters[field.name] = value
    return {"parameters": parameters} | ({"inputs": inputs} if inputs else {})


def _digest(data: bytes) -> dict[str, Any]:
    return {"sha256": sha256_hex(data), "size_bytes": len(data)}


def _with_generation(asset: GeneratedAsset, made_by: Mapping[str, Any]) -> GeneratedAsset:
    """Add what made the asset to its metadata, with the seed that the backend chose where none was asked for."""
    seed = made_by["parameters"].get("seed", asset.metadata.get("seed"))
    return replace(asset, metadata=json_safe({**asset.metadata, "generation": {**made_by, "seed": seed}}))
