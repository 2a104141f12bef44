"""Another transformer in the place of the model's own, for one forward pass: what Rapid-AIO repositories hold.

It is loaded once and kept. The model's own is put back by the next pass that wants it: the same object, untouched.

Not covered: which request wants which (`prepare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.loading import LOAD_ERRORS, load_module, quiet, short
from abstractvision_batch.backends.huggingface_diffusers.locate import fetch_snapshot, find_folder
from abstractvision_batch.backends.huggingface_diffusers.tuning import quantization_of, tune
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError


class DenoiserSwitch:
    """Which denoiser a model's pipelines have: None is the model's own, else a folder or hub id."""

    def __init__(self, base: Any, config: HuggingFaceDiffusersBackendConfig, dtype: torch.dtype) -> None:
        self.name = "transformer" if base.components.get("transformer") is not None else "unet"
        self.active: str | None = None
        self._config = config
        self._dtype = dtype
        self._modules: dict[str | None, Any] = {None: base.components.get(self.name)}

    def load(self, source: str | None) -> None:
        """Have the denoiser of `source` at hand.

        Raises:
            DependencyError: it is absent, damaged or of another kind.
            CapabilityNotSupportedError: the model has no denoiser that could be replaced.
        """
        if source not in self._modules:
            self._modules[source] = self._read(str(source))

    def put(self, source: str | None, pipelines: Sequence[Any], device: torch.device) -> None:
        """Give every pipeline the denoiser of `source`, which was loaded."""
        if source == self.active:
            return
        module, waiting = self._modules[source], self._modules[self.active]
        if self._config.offload == "none" and not self._config.quantized:
            if device.type != "cpu":
                waiting.to("cpu")  # two of them need not fit into the device's memory
            module.to(device)
        for pipeline in pipelines:
            pipeline.register_modules(**{self.name: module})
        self.active = source

    def _read(self, source: str) -> Any:
        own = self._modules[None]
        if own is None:
            raise CapabilityNotSupportedError(f"rapid_aio_repo: {self._config.model_id} has no transformer to replace")
        fetch_snapshot(source, self._config)
        folder = find_folder(source, self._config.cache_dir)
        smaller = quantization_of(self._config, self._dtype)
        settings = {} if smaller is None else {"quantization_config": smaller}
        try:
            with quiet():
                module = load_module(type(own), folder, self.name, self._dtype, **settings)
        except LOAD_ERRORS as exc:
            raise DependencyError(
                f"rapid_aio_repo {source}: no {self.name} of {self._config.model_id} loads from {folder}: {short(exc)}"
            ) from exc
        takes, wanted = (one.config.get("in_channels") for one in (module, own))
        if takes != wanted:
            raise DependencyError(
                f"rapid_aio_repo {source}: its {self.name} takes {takes} channels, "
                f"that of {self._config.model_id} {wanted} (another kind of model)"
            )
        tune(module, self._config)
        return module.eval()
