"""AbstractCore's `llm.vision`: entry point `register`, and the capability that it registers.

Importing this module and registering load no backend. Not covered: tools for agents (`abstractcore`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from abstractvision_batch.artifacts import RuntimeArtifactStoreAdapter, get_artifact_id, is_artifact_ref, json_safe
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.errors import BackendNotConfiguredError, CapabilityNotSupportedError, GenerationError
from abstractvision_batch.integrations.configured_backend import HTTP_KINDS, backend_kind, make_backend, model_of
from abstractvision_batch.integrations.settings import Settings
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    ProviderModelInfo,
    VideoGenerationRequest,
    VisionRequest,
)
from abstractvision_batch.vision_manager import Output, VisionManager

#: Encoded image, reference to one in the call's artifact store, or path of a file.
ImageInput = bytes | dict[str, Any] | str | Path

#: Bounds of a catalog entry's `raw`: what a provider says there goes into a host's replies.
MAX_DEPTH, MAX_ITEMS, MAX_CHARS = 4, 50, 4096

_CONFIG_HINT = (
    "owner.config: vision_backend, vision_base_url, vision_api_key, vision_model_id, …; or ABSTRACTVISION_* variables"
)


def register(registry: Any) -> None:
    """Register the vision backends with AbstractCore's capability registry."""
    registry.register_vision_backend(
        backend_id="abstractvision:openai",
        factory=lambda owner: VisionCapability(owner, "abstractvision:openai"),
        priority=0,
        description="Images and videos from OpenAI, or whatever backend vision_backend names.",
        config_hint=_CONFIG_HINT,
    )
    registry.register_vision_backend(
        backend_id="abstractvision:openai-compatible",
        factory=lambda owner: VisionCapability(owner, "abstractvision:openai-compatible"),
        priority=-1,
        description="Images and videos from an OpenAI-compatible server, or whatever backend vision_backend names.",
        config_hint=_CONFIG_HINT,
    )


class VisionCapability:
    """What `llm.vision` is: one backend, made on first use; a local one does one call at a time.

    Every method takes the fields of its request; a name that the request does not have goes into `extra`. With
    `artifact_store` the result is a reference to the stored artifact (`run_id`, `tags`, `metadata` go to the store),
    without it is bytes.
    """

    def __init__(self, owner: object, backend_id: str) -> None:
        self.backend_id = backend_id
        self._owner = owner
        self._settings = Settings(owner)
        self._lock = threading.RLock()
        self._backends: dict[str | None, VisionBackend] = {}
        self._registry = VisionModelCapabilitiesRegistry()

    def t2i(self, prompt: str, **kwargs: Any) -> bytes | dict[str, Any]:
        """Generate an image from a prompt."""
        return self._one(ImageGenerationRequest, kwargs, lambda vm, params: vm.generate_image(prompt, **params))

    def i2i(self, prompt: str, image: ImageInput, **kwargs: Any) -> bytes | dict[str, Any]:
        """Change an image as a prompt says."""
        kwargs["image"] = image
        return self._one(ImageEditRequest, kwargs, lambda vm, params: vm.edit_image(prompt, **params))

    def multi_view_image(self, prompt: str, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Generate one image per angle."""
        return self._call(MultiAngleRequest, kwargs, lambda vm, params: vm.generate_angles(prompt, **params))

    def generate_angles(self, prompt: str, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Generate one image per angle; another name of `multi_view_image`."""
        return self.multi_view_image(prompt, **kwargs)

    def t2v(self, prompt: str, **kwargs: Any) -> bytes | dict[str, Any]:
        """Generate a video from a prompt."""
        return self._one(VideoGenerationRequest, kwargs, lambda vm, params: vm.generate_video(prompt, **params))

    def i2v(self, image: ImageInput, **kwargs: Any) -> bytes | dict[str, Any]:
        """Generate a video that starts from an image."""
        kwargs["image"] = image
        return self._one(ImageToVideoRequest, kwargs, lambda vm, params: vm.image_to_video(**params))

    def list_provider_models(self, *, task: str | None = None) -> list[dict[str, Any]]:
        """List the provider's models as plain JSON; changes nothing about the configured model."""
        with self._lock:
            return [_model_as_json(model) for model in self._backend_for(None).list_provider_models(task=task)]

    def _one(
        self, request: type[VisionRequest], kwargs: dict[str, Any], generate: Callable[[VisionManager, Any], Output]
    ) -> bytes | dict[str, Any]:
        (result,) = self._call(request, kwargs, lambda vm, params: [generate(vm, params)])
        return result

    def _call(
        self,
        request: type[VisionRequest],
        kwargs: dict[str, Any],
        generate: Callable[[VisionManager, dict[str, Any]], list[Output]],
    ) -> list[bytes | dict[str, Any]]:
        store = kwargs.pop("artifact_store", None)
        about = {name: kwargs.pop(name, None) for name in ("run_id", "tags", "metadata")}
        kwargs.pop("provider", None)
        model = str(kwargs.pop("model", None) or "") or None
        known = {field.name for field in fields(request)} | {"progress_callback"}
        params = {name: value for name, value in kwargs.items() if name in known}
        unknown = {name: value for name, value in kwargs.items() if name not in known and value is not None}
        for name in ("image", "mask", "reference_image"):
            if params.get(name) is not None:
                params[name] = _image_bytes(name, params[name], store)
        if unknown:
            params["extra"] = {**(params.get("extra") or {}), **unknown}
        adapter = None if store is None else RuntimeArtifactStoreAdapter(store, **about)
        with self._lock:
            manager = VisionManager(self._backend_for(model), adapter, self._card_id(), self._registry)
        with contextlib.nullcontext() if self._is_remote() else self._lock:
            outputs = generate(manager, params)
        return [output if isinstance(output, dict) else output.data for output in outputs]

    def _kind(self) -> str:
        return backend_kind(self._settings, self.backend_id.rpartition(":")[2])

    def _backend_for(self, model: str | None) -> VisionBackend:
        """Return the backend, one for each model of a server; a local backend has the model that it has."""
        if model is not None and model == model_of(self._settings, self._kind()):
            model = None
        if model not in self._backends:
            if model is not None and not self._is_remote():
                raise CapabilityNotSupportedError(
                    f"model {model}: backend {self._kind()} is configured for another (set vision_model_id)"
                )
            self._backends[model] = (
                self._given_backend()
                if self._is_given()
                else make_backend(self._settings, self._kind(), self._registry, model=model)
            )
        return self._backends[model]

    def _is_given(self) -> bool:
        return any(self._settings.value(name) is not None for name in ("backend_instance", "backend_factory"))

    def _is_remote(self) -> bool:
        return self._kind() in HTTP_KINDS and not self._is_given()

    def _given_backend(self) -> VisionBackend:
        """Return the backend that the owner brings along, in `vision_backend_instance` or `vision_backend_factory`."""
        factory = self._settings.value("backend_factory")
        backend = self._settings.value("backend_instance")
        if backend is None and callable(factory):
            backend = factory(self._owner)
        if not isinstance(backend, VisionBackend):
            raise BackendNotConfiguredError(f"vision_backend_instance: {type(backend).__name__} is no VisionBackend")
        return backend

    def _card_id(self) -> str | None:
        """Return whose card calls are checked against: the one asked for, or that of a local model if there is one."""
        asked = self._settings.text("capabilities_model_id")
        if asked or self._is_remote() or self._is_given():
            return asked
        model = model_of(self._settings, self._kind())
        return model if model in self._registry.list_models() else None


def _image_bytes(name: str, image: object, store: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if is_artifact_ref(image) and isinstance(image, Mapping):
        if store is None:
            raise GenerationError(f"{name}: a reference to an artifact needs artifact_store")
        return RuntimeArtifactStoreAdapter(store).load_bytes(get_artifact_id(image))
    if isinstance(image, str | Path):
        try:
            return Path(image).expanduser().read_bytes()
        except (OSError, ValueError) as exc:
            raise GenerationError(f"{name}: {str(image)[:200]}: cannot be read ({exc})") from exc
    raise GenerationError(f"{name}: {type(image).__name__} is neither bytes, a reference to an artifact nor a path")


def _model_as_json(model: ProviderModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": model.object,
        "created": model.created,
        "owned_by": model.owned_by,
        "capabilities": list(model.capabilities),
        "raw": json_safe(model.raw, max_depth=MAX_DEPTH, max_items=MAX_ITEMS, max_chars=MAX_CHARS),
    }
