"""One model in memory: a pipeline per kind of request, all over the same weights.

Not covered: reading files (`loading`), running a pipeline (`forward`).
"""

from __future__ import annotations

import gc
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.denoiser import DenoiserSwitch
from abstractvision_batch.backends.huggingface_diffusers.families import fits, is_video, siblings
from abstractvision_batch.backends.huggingface_diffusers.loading import (
    get_pipeline_class,
    load_pipeline,
    place,
    quiet,
    resolve_device,
    resolve_dtype,
)
from abstractvision_batch.backends.huggingface_diffusers.lora import activate_loras
from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import SchedulerChoice, read_scheduler
from abstractvision_batch.backends.huggingface_diffusers.scheduler_switch import SchedulerSwitch, make_scheduler
from abstractvision_batch.errors import CapabilityNotSupportedError, GenerationError

# names, because diffusers imports every pipeline there is for the classes
_AUTO = {
    "text_to_image": "AutoPipelineForText2Image",
    "image_to_image": "AutoPipelineForImage2Image",
    "multi_view_image": "AutoPipelineForImage2Image",
    "inpaint": "AutoPipelineForInpainting",
}

_TOLERATED_FAILURES = 2
#: Denoisers that give as many channels as they take, unless they were made for an image besides the noise.
_AS_MANY_CHANNELS = ("UNet2DConditionModel", "FluxTransformer2DModel")


class LoadedModel:
    """A model's weights and the pipelines over them."""

    def __init__(self, config: HuggingFaceDiffusersBackendConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        self.dtype = resolve_dtype(config, self.device)
        # the model's own class first: it has every component, whichever kind is asked for first
        self.base, self.files = load_pipeline(config, None)
        self._pipelines: dict[str, Any] = {}
        self._hooked = self.base
        self._failed_together: Counter[str] = Counter()
        self._denoisers = DenoiserSwitch(self.base, config, self.dtype)
        self._schedulers = SchedulerSwitch(self.base)
        if config.scheduler is not None:
            try:
                make_scheduler(self.base.scheduler, read_scheduler(config.scheduler))
            except (ValueError, CapabilityNotSupportedError) as exc:
                raise CapabilityNotSupportedError(f"backend.scheduler: {exc}") from exc

    def pipeline(self, kind: str) -> Any:
        """Return the pipeline of a kind; the first call makes it from the loaded components.

        Raises:
            CapabilityNotSupportedError: the model has none.
            DependencyError: the installed Diffusers lacks its class.
        """
        if kind not in self._pipelines:
            self._schedulers.restore()
            with quiet():
                self._pipelines[kind] = self._derive(kind)
            self._schedulers.adopt(kind, self._pipelines[kind])
        pipeline = self._pipelines[kind]
        if self.config.offload != "none" and pipeline is not self._hooked:
            place(pipeline, self.config, self.device)  # offloading hooks belong to one pipeline at a time
            self._hooked = pipeline
        return pipeline

    def shares(self, kind: str) -> bool:
        """Whether requests of a kind may still share a pass: not after two that failed and worked one by one."""
        return self._failed_together[kind] < _TOLERATED_FAILURES

    def note_shared(self, kind: str, *, failed: bool) -> None:
        """Remember how a shared pass ended: `failed` where all its requests then worked one by one."""
        self._failed_together[kind] = self._failed_together[kind] + 1 if failed else 0

    def use_denoiser(self, source: str | None) -> None:
        """Let every kind of pipeline denoise with the transformer of `source`; None is the model's own."""
        self._denoisers.load(source)
        hooked = self.config.offload != "none" and source != self._denoisers.active
        if hooked:
            self._hooked.remove_all_hooks()
        self._denoisers.put(source, [self.base, *self._pipelines.values()], self.device)
        if hooked:
            place(self._hooked, self.config, self.device)

    def use_scheduler(self, kind: str, choice: SchedulerChoice | None) -> None:
        """Give the pipeline of a kind a new scheduler for one pass; None is the model's own.

        Raises:
            GenerationError: it does not fit the model.
            OptionalDependencyMissingError: it needs a package that is not installed.
        """
        try:
            self._schedulers.put(kind, self.pipeline(kind), choice)
        except CapabilityNotSupportedError as exc:
            raise GenerationError(f"extra.scheduler: {exc}") from exc

    def activate_loras(self, adapters: tuple[LoraAdapter, ...]) -> None:
        """Let exactly these adapters act, on every kind of pipeline."""
        activate_loras(self.base, adapters, self.config, beside=self._denoisers.active)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Run in float32 for a while. Widening and narrowing again gives every weight back to the bit."""
        narrowed: list[tuple[torch.Tensor, torch.dtype]] = []
        for component in self.base.components.values():
            if isinstance(component, torch.nn.Module):
                for tensor in [*component.parameters(), *component.buffers()]:
                    if tensor.dtype in (torch.float16, torch.bfloat16):
                        narrowed.append((tensor, tensor.dtype))
                        tensor.data = tensor.data.float()
        try:
            yield
        finally:
            for tensor, dtype in narrowed:
                tensor.data = tensor.data.to(dtype)

    def free(self) -> None:
        """Drop the weights and give the memory back to the device."""
        self._pipelines.clear()
        self._hooked = self.base = None
        del self._denoisers, self._schedulers
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

    def _derive(self, kind: str) -> Any:
        base = type(self.base).__name__
        named = self.config.pipelines.get(kind)
        if named is not None:
            return self.base if named == base else _share_components(self.base, get_pipeline_class(named))
        if self._fits(self.base, kind):
            return self.base
        if kind not in _AUTO or is_video(_accepted(self.base), self.config.rename):
            raise CapabilityNotSupportedError(f"{self.config.model_id}: {base} does no {kind}")
        self._check_weights(kind)
        derived = self._derive_image(kind)
        derived.set_progress_bar_config(disable=True)
        return derived

    def _derive_image(self, kind: str) -> Any:
        """Make the pipeline of another kind of image request: as Diffusers pairs them, else by their names."""
        try:
            derived = getattr(diffusers, _AUTO[kind]).from_pipe(self.base)
            if self._fits(derived, kind):
                return derived
        except ValueError:  # it pairs this class with none
            pass
        base = type(self.base).__name__
        for name in siblings(base, kind):
            sibling = getattr(diffusers, name, None)
            if name != base and isinstance(sibling, type) and issubclass(sibling, diffusers.DiffusionPipeline):
                derived = _share_components(self.base, sibling)
                if self._fits(derived, kind):
                    return derived
        raise CapabilityNotSupportedError(f"{self.config.model_id}: no {kind} pipeline goes with {base}")

    def _fits(self, pipeline: Any, kind: str) -> bool:
        required = {
            name: parameter.default is inspect.Parameter.empty for name, parameter in _accepted(pipeline).items()
        }
        return fits(kind, type(pipeline).__name__, required, self.config.rename)

    def _check_weights(self, kind: str) -> None:
        """Refuse what weights made for editing cannot do: their denoiser takes the image's latents too."""
        for name in ("unet", "transformer"):
            component = self.base.components.get(name)
            if type(component).__name__ not in _AS_MANY_CHANNELS:
                continue
            takes, gives = component.config.in_channels, component.config.out_channels
            if takes != (gives or takes):
                raise CapabilityNotSupportedError(
                    f"{self.config.model_id}: no {kind} with these weights, which are made for "
                    f"{type(self.base).__name__} alone ({takes} channels go into the {name}, {gives} come out)"
                )


def _accepted(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipeline).__call__).parameters


def _share_components(base: Any, pipeline_class: Any) -> Any:
    """Make a pipeline of another class over the same components.

    `DiffusionPipeline.from_pipe` does the same and then casts every component to one dtype, which changes the weights
    that are kept in float32 on purpose, and with them the pixels of the pipeline that it came from.
    """
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items():
        if name in base.components:
            given[name] = base.components[name]
        elif name in base.config:
            given[name] = base.config[name]
        elif name != "self" and parameter.default is inspect.Parameter.empty:
            raise CapabilityNotSupportedError(
                f"{pipeline_class.__name__} needs {name}, which {type(base).__name__} has not"
            )
    pipeline = pipeline_class(**given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
