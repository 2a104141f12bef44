"""Local generation with Diffusers. Importing this package imports neither torch nor diffusers.

`fields` its section of a spec · `config` what a user says · `locate` where a model's files are · `loading` files or a
checkpoint to a pipeline · `tuning` quantisation, attention, compilation · `loaded_model` one
model's pipelines over one set of weights · `lora` adapters · `denoiser` another transformer in its place · `prepare` a
request to pipeline arguments · `views` angles as edits · `forward` one forward pass and its outcome · `backend` the
interface over all that.
"""

from __future__ import annotations

from typing import Any

from abstractvision_batch import backends

__all__ = ["HuggingFaceDiffusersBackendConfig", "HuggingFaceDiffusersVisionBackend"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use, because a spec needs this package's `fields` alone
        return getattr(backends, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
