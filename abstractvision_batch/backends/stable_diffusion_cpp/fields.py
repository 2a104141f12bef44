"""The `backend` section of a spec for stable-diffusion.cpp."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from abstractvision_batch.documents.strict_model import Number, StrictModel, StrTuple, Text, tuple_from_list
from abstractvision_batch.job.backend_section import BackendSection


class LoraFileSpec(StrictModel):
    """One LoRA file; the base weights stay as they are."""

    source: Text
    """File, relative to the spec."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0


class SdcppBackendSpec(BackendSection):
    """Local generation with stable-diffusion.cpp: one file of a whole model, or a denoiser and its components.

    Paths of weights are relative to the spec; `${NAME}` is replaced in them.
    """

    needs_card: ClassVar[bool] = True
    #: What a UNet wants.
    side_multiple: ClassVar[int] = 64

    kind: Literal["sdcpp"] = "sdcpp"
    mode: Literal["auto", "cli", "server", "python"] = "auto"
    """`server` and `python` load the model once for a worker, `cli` for every request.

    `auto`: `cli` where there is an sd-cli, else `python`.
    """
    model_path: Text | None = None
    """The whole model in one file (safetensors, GGUF, ckpt), or a Diffusers folder of a UNet model."""
    diffusion_model: Text | None = None
    """The denoiser alone; its encoders and VAE are named below."""
    high_noise_diffusion_model: Text | None = None
    """The second denoiser of Wan 2.2."""
    vae: Text | None = None
    taesd: Text | None = None
    """A tiny autoencoder in place of the VAE: fast and rough."""
    clip_l: Text | None = None
    clip_g: Text | None = None
    clip_vision: Text | None = None
    t5xxl: Text | None = None
    llm: Text | None = None
    llm_vision: Text | None = None
    lora_dir: Text | None = None
    """Folder in which `<lora:name:scale>` in a prompt finds its file."""
    loras: Annotated[tuple[LoraFileSpec, ...], BeforeValidator(tuple_from_list)] = ()
    weight_type: Text | None = None
    """Type that weights are converted to while they load: `f16`, `q8_0`, `q4_0`, ..."""
    sampler: Text | None = None
    """`euler`, `dpm++2m`, ...; by default `euler` for transformers, `euler_a` for UNets."""
    scheduler: Text | None = None
    """`discrete`, `karras`, `simple`, ...; the default is the model's own."""
    eta: Annotated[Number, Field(ge=0, le=100)] | None = None
    """Noise of an ancestral sampler; the default is the sampler's own."""
    flow_shift: Annotated[Number, Field(ge=0, le=1000)] | None = None
    """The default is the model's own."""
    rng: Literal["cpu", "cuda", "std_default"] = "cpu"
    """Whose random numbers a seed gives: PyTorch's of a CPU or of a GPU, on any machine."""
    flash_attention: bool = False
    vae_tiling: bool = False
    offload_to_cpu: bool = False
    clip_on_cpu: bool = False
    vae_on_cpu: bool = False
    mmap: bool = False
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of one worker. They do not change pixels."""
    timeout_s: Annotated[Number, Field(gt=0, le=86400)] = 3600.0
    """For one request, and for loading the model."""
    extra_args: StrTuple = ()
    """More arguments of the program; those that have a field here are refused."""
    sd_cli_path: Text = "sd-cli"
    """A name to look up on PATH, or a path."""
    sd_server_path: Text | None = None
    """By default beside sd-cli, or on PATH."""
