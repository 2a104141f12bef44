"""The `backend` section of a spec for stable-diffusion.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from abstractvision_batch.documents.strict_model import Number, StrictModel, StrTuple, Text, tuple_from_list
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.fields import WeightsPath
from abstractvision_batch.job.marks import Identity, Outside, Runtime, Secret
from abstractvision_batch.registry.model_card import ModelCard


class LoraFileSpec(StrictModel):
    """One LoRA file; the base weights stay as they are."""

    source: WeightsPath
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
    mode: Runtime[Literal["auto", "cli", "server", "python"]] = "auto"
    """`server` and `python` load the model once for a worker, `cli` for every request.

    `auto`: `cli` where there is an sd-cli, else `python`.
    """
    model_path: Identity[WeightsPath | None] = None
    """The whole model in one file (safetensors, GGUF, ckpt), or a Diffusers folder of a UNet model."""
    diffusion_model: Identity[WeightsPath | None] = None
    """The denoiser alone; its encoders and VAE are named below."""
    high_noise_diffusion_model: Identity[WeightsPath | None] = None
    """The second denoiser of Wan 2.2."""
    vae: Identity[WeightsPath | None] = None
    taesd: Identity[WeightsPath | None] = None
    """A tiny autoencoder in place of the VAE: fast and rough."""
    clip_l: Identity[WeightsPath | None] = None
    clip_g: Identity[WeightsPath | None] = None
    clip_vision: Identity[WeightsPath | None] = None
    t5xxl: Identity[WeightsPath | None] = None
    llm: Identity[WeightsPath | None] = None
    llm_vision: Identity[WeightsPath | None] = None
    lora_dir: Identity[WeightsPath | None] = None
    """Folder in which `<lora:name:scale>` in a prompt finds its file."""
    loras: Identity[Annotated[tuple[LoraFileSpec, ...], BeforeValidator(tuple_from_list)]] = ()
    weight_type: Identity[Text | None] = None
    """Type that weights are converted to while they load: `f16`, `q8_0`, `q4_0`, ..."""
    sampler: Identity[Text | None] = None
    """`euler`, `dpm++2m`, ...; by default `euler` for transformers, `euler_a` for UNets."""
    scheduler: Identity[Text | None] = None
    """`discrete`, `karras`, `simple`, ...; the default is the model's own."""
    eta: Identity[Annotated[Number, Field(ge=0, le=100)] | None] = None
    """Noise of an ancestral sampler; the default is the sampler's own."""
    flow_shift: Identity[Annotated[Number, Field(ge=0, le=1000)] | None] = None
    """The default is the model's own."""
    rng: Identity[Literal["cpu", "cuda", "std_default"]] = "cpu"
    """Whose random numbers a seed gives: PyTorch's of a CPU or of a GPU, on any machine."""
    flash_attention: Identity[bool] = False
    vae_tiling: Identity[bool] = False
    offload_to_cpu: Runtime[bool] = False
    clip_on_cpu: Runtime[bool] = False
    vae_on_cpu: Runtime[bool] = False
    mmap: Runtime[bool] = False
    threads: Runtime[Annotated[int, Field(ge=1, le=1024)]] = 1
    """CPU threads of one worker. They do not change pixels."""
    timeout_s: Runtime[Annotated[Number, Field(gt=0, le=86400)]] = 3600.0
    """For one request, and for loading the model."""
    extra_args: Identity[Annotated[StrTuple, Secret("argument"), Outside("start sd-cli with {value}")]] = ()
    """More arguments of the program; those that have a field here are refused."""
    sd_cli_path: Runtime[Annotated[Text, Outside("start the program {value}")]] = "sd-cli"
    """A name to look up on PATH, or a path."""
    sd_server_path: Runtime[Annotated[Text, Outside("start the program {value}")] | None] = None
    """By default beside sd-cli, or on PATH."""

    @property
    def cpus(self) -> int:
        return self.threads

    @property
    def asked_programs(self) -> Mapping[str, str]:
        return {"backend.sd_cli_path": self.sd_cli_path}

    def at_path(self, path: str) -> Self:
        return (
            self.model_copy(update={"model_path": path})
            if self.model_path is None and self.diffusion_model is None
            else self
        )

    def gpu_bytes(self, card: ModelCard) -> int | None:
        return None if self.offload_to_cpu else super().gpu_bytes(card)
