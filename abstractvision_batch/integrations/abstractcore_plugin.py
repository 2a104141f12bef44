"""AbstractCore's `llm.vision`: entry point `register`, and the capability that it registers.

Importing this module and registering load no backend. Not covered: tools for agents (`abstractcore`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from abstractvision_batch.artifacts import RuntimeArtifactStoreAdapter, get_artifact_id, is_artifact_ref, json_safe
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.foreign_backend import as_backend
from abstractvision_batch.backends.from_environment import read_choice
from abstractvision_batch.errors import BackendNotConfiguredError, CapabilityNotSupportedError, GenerationError
from abstractvision_batch.integrations.configured_backend import (
    HTTP_KINDS,
    Settings,
    backend_fields,
    backend_kind,
    make_backend,
    model_of,
    owner_value,
    read_settings,
)
from abstractvision_batch.integrations.residency import PROVIDERS, LoadedModel, note_loaded, task_named
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.storage.regular import read_regular
from abstractvision_batch.types import (
    TASK_OF_REQUEST,
    TASKS,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    ProviderModelInfo,
    Task,
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


#: Backends under this package's own name, below those of the older library's, with which it shares two ids.
_OWN_IDS = {"abstractvision_batch:openai": -2, "abstractvision_batch:openai-compatible": -3}
_SHARED_IDS = {"abstractvision:openai": 0, "abstractvision:openai-compatible": -1}

#: What must be importable for a kind of backend to run; servers need their HTTP client.
_PACKAGES = {
    "openai": ("httpx",),
    "openai-compatible": ("httpx",),
    "diffusers": ("diffusers", "torch"),
    "sdcpp": ("stable_diffusion_cpp",),
    "procedural": (),
}


def register(registry: Any) -> None:
    """Register the vision backends with AbstractCore's capability registry.

    The older library's plugin registers `abstractvision:openai` and `abstractvision:openai-compatible` too, and there
    the last one wins. Ours takes them only where they are free; under `abstractvision_batch:…` it is always there.
    """
    is_taken = getattr(registry, "_is_backend_registered", None)
    free = {
        backend_id: priority
        for backend_id, priority in _SHARED_IDS.items()
        if not (callable(is_taken) and is_taken("vision", backend_id))
    }
    for backend_id, priority in {**free, **_OWN_IDS}.items():
        server = "OpenAI" if backend_id.endswith(":openai") else "an OpenAI-compatible server"
        registry.register_vision_backend(
            backend_id=backend_id,
            factory=lambda owner, backend_id=backend_id: VisionCapability(owner, backend_id),
            priority=priority,
            description=f"Images and videos from {server}, or whatever backend vision_backend names.",
            config_hint=_CONFIG_HINT,
        )


class VisionCapability:
    """What `llm.vision` is: one backend, made on first use; a local one does one call at a time.

    Every method takes the fields of its request; a name that the request does not have goes into `extra`. With
    `artifact_store` the result is a reference to the stored artifact (`run_id`, `tags`, `metadata` go to the store),
    without it is bytes. The `_batch` methods take `count` and `seeds` and generate in one call of the backend.
    """

    def __init__(self, owner: object, backend_id: str) -> None:
        self.backend_id = backend_id
        self._owner = owner
        self._lock = threading.RLock()
        self._backends: dict[str | None, VisionBackend] = {}
        self._loaded: dict[str, LoadedModel] = {}
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

    def t2i_batch(self, prompt: str, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Generate several images from a prompt."""
        return self._call(ImageGenerationRequest, kwargs, lambda vm, params: vm.generate_image_batch(prompt, **params))

    def i2i_batch(self, prompt: str, image: ImageInput, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Change an image several times as a prompt says."""
        kwargs["image"] = image
        return self._call(ImageEditRequest, kwargs, lambda vm, params: vm.edit_image_batch(prompt, **params))

    def t2v_batch(self, prompt: str, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Generate several videos from a prompt."""
        return self._call(VideoGenerationRequest, kwargs, lambda vm, params: vm.generate_video_batch(prompt, **params))

    def i2v_batch(self, image: ImageInput, **kwargs: Any) -> list[bytes | dict[str, Any]]:
        """Generate several videos that start from an image."""
        kwargs["image"] = image
        return self._call(ImageToVideoRequest, kwargs, lambda vm, params: vm.image_to_video_batch(**params))

    def upscale_image(self, image: ImageInput, **kwargs: Any) -> bytes | dict[str, Any]:
        """Refuse: no backend here has a task of its own for it.

        Raises:
            CapabilityNotSupportedError: always.
        """
        raise CapabilityNotSupportedError(
            "image_upscale: not a task of these backends (use i2i with an upscaler's model, such as "
            "stabilityai/stable-diffusion-x4-upscaler)"
        )

    def available_providers(self, *, task: str | None = None) -> dict[str, Any]:
        """Say which kinds of backend could run here, asking no server and loading nothing."""
        kind, is_given = self._kind(), self._is_given()
        details = {}
        for name, packages in _PACKAGES.items():
            installed = all(find_spec(package) is not None for package in packages)
            remote = name in HTTP_KINDS
            details[_provider_of(name)] = {
                "id": _provider_of(name),
                "provider": _provider_of(name),
                "installed": installed,
                "remote": remote,
                "local": not remote,
                "selected": name == kind and not is_given,
                "available": installed and (not remote or self._has_server(name)),
            }
        available = [name for name, about in details.items() if about["available"]]
        return {"task": task, "providers": list(details), "available_providers": available, "details": details}

    def list_provider_adapters(
        self, *, model: str | None = None, task: str | None = None, provider: str | None = None
    ) -> list[dict[str, Any]]:
        """List the cards of adapters, that is, of models that need another one as their base."""
        found = []
        for card_id in self._registry.list_models():
            card = self._registry.card(card_id)
            base = card.requires.get("base_model_id")
            if base is None or (model is not None and model != base) or (task is not None and task not in card.tasks):
                continue
            about = {"id": card_id, "adapter": card_id, "repo_id": card_id, "provider": _provider_of("diffusers")}
            if provider is None or provider in (about["provider"], "diffusers"):
                bases = {"base_models": [base], "compatible_models": [base], "compatible_tasks": list(card.tasks)}
                found.append({**about, **bases, "suggested_target_roles": [], "raw": {}})
        return found

    def load_resident_model(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the configured local model and keep it in memory.

        Raises:
            CapabilityNotSupportedError: the model is a server's, or another than the configured one.
            DependencyError: it is not there.
        """
        task = task_named(request.get("task"))
        key = self._local_key(request)
        with self._lock:
            self._backend_for(self._asked_model(request)).preload(_known_task(task))
            known = self._loaded.get(key)
            self._loaded[key] = note_loaded(self._kind(), self._model(), task, explicit=True)
            return {**self._loaded[key].to_json(), "loaded_new": known is None}

    def list_loaded_models(self, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """List the local models that are in memory."""
        with self._lock:
            return [loaded.to_json() for loaded in self._loaded.values() if loaded.matches(filters)]

    def list_resident_models(self, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """List the local models that somebody asked to keep in memory."""
        return self.list_loaded_models({**(filters or {}), "resident": True})

    def unload_resident_model(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Free the local model; one that is not loaded stays as it is.

        Raises:
            CapabilityNotSupportedError: the model is a server's, or another than the configured one.
        """
        key = self._local_key(request)
        with self._lock:
            loaded = self._loaded.pop(key, None)
            for backend in self._backends.values():
                backend.unload()
        record = loaded or note_loaded(self._kind(), self._model(), task_named(request.get("task")), explicit=False)
        return {**record.to_json(loaded=False), "unloaded": loaded is not None}

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
        known = {field.name for field in fields(request)} | {"progress_callback", "count", "seeds"}
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
            self._note_use(TASK_OF_REQUEST[request])
        return [output if isinstance(output, dict) else output.data for output in outputs]

    @property
    def _settings(self) -> Settings:
        return read_settings(self._owner)

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
                else make_backend(self._owner, self._kind(), self._registry, model=model)
            )
        return self._backends[model]

    def _is_given(self) -> bool:
        return any(owner_value(self._owner, f"vision_backend_{name}") is not None for name in ("instance", "factory"))

    def _is_remote(self) -> bool:
        return self._kind() in HTTP_KINDS and not self._is_given()

    def _given_backend(self) -> VisionBackend:
        """Return the backend that the owner brings along, in `vision_backend_instance` or `vision_backend_factory`."""
        factory = owner_value(self._owner, "vision_backend_factory")
        backend = owner_value(self._owner, "vision_backend_instance")
        if backend is None and callable(factory):
            backend = factory(self._owner)
        try:
            return as_backend(backend)
        except BackendNotConfiguredError as exc:
            raise BackendNotConfiguredError(f"vision_backend_instance: {exc}") from exc

    def _model(self) -> str | None:
        return model_of(self._settings, self._kind())

    def _asked_model(self, request: Mapping[str, Any]) -> str | None:
        """Return the model that a residency request names, None for the configured one."""
        name = str(request.get("model") or "") or None
        return None if name in (None, self._model()) else name

    def _local_key(self, request: Mapping[str, Any]) -> str:
        """Return what the local model is kept under.

        Raises:
            CapabilityNotSupportedError: the model is a server's.
        """
        if self._is_remote():
            raise CapabilityNotSupportedError(f"backend {self._kind()}: its models are loaded by its server, not here")
        asked = self._asked_model(request)
        if asked is not None and not self._is_given():
            raise CapabilityNotSupportedError(
                f"model {asked}: backend {self._kind()} is configured for another (set vision_model_id)"
            )
        return self._kind()

    def _note_use(self, task: Task) -> None:
        if self._is_remote():
            return
        loaded = self._loaded.get(self._kind())
        new = note_loaded(self._kind(), self._model(), task, explicit=False)
        self._loaded[self._kind()] = new if loaded is None else loaded.used()

    def _has_server(self, kind: str) -> bool:
        try:
            return bool(backend_fields(self._settings, kind))
        except BackendNotConfiguredError:
            return False

    def _card_id(self) -> str | None:
        """Return whose card calls are checked against: the one asked for, or that of a local model if there is one."""
        asked = read_choice(self._settings, "cap_model")
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
            return read_regular(Path(image).expanduser())
        except (OSError, ValueError) as exc:
            raise GenerationError(f"{name}: {str(image)[:200]}: cannot be read ({exc})") from exc
    raise GenerationError(f"{name}: {type(image).__name__} is neither bytes, a reference to an artifact nor a path")


def _provider_of(kind: str) -> str:
    return PROVIDERS.get(kind, kind)


def _known_task(name: str | None) -> Task | None:
    return next((task for task in TASKS if task == name), None)


def _model_as_json(model: ProviderModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": model.object,
        "created": model.created,
        "owned_by": model.owned_by,
        "capabilities": list(model.capabilities),
        "raw": json_safe(model.raw, max_depth=MAX_DEPTH, max_items=MAX_ITEMS, max_chars=MAX_CHARS),
    }
