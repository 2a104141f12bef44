"""The `backend` section of a spec for Diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field

from abstractvision_batch.backends.huggingface_diffusers.scheduler_names import read_scheduler
from abstractvision_batch.documents.strict_model import Number, StrictModel, Text, tuple_from_list
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.fields import OwnName, WeightsPath
from abstractvision_batch.job.marks import CountsAs, FromVariable, Identity, LocalPath, Outside, Requests, Runtime
from abstractvision_batch.registry.model_card import ModelCard


class LoraSpec(StrictModel):
    """One LoRA adapter; the base weights stay as they are."""

    source: Annotated[Text, LocalPath(or_hub_id=True)]
    """Folder or file, relative to the spec, or hub id."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0
    weight_name: str | None = None
    subfolder: str | None = None


class SchedulerSpec(StrictModel):
    """A scheduler with settings, which are parameters of its class; what is left out is as the model has it."""

    model_config = ConfigDict(extra="allow")
    written: ClassVar[str] = "a mapping {name: ..., setting: value}"

    name: Text
    """A class of Diffusers, as `DPMSolverMultistepScheduler`, or a name that people use, as `DPM++ 2M`."""


def _as_meant(scheduler: str | SchedulerSpec | None) -> str | dict[str, Any] | None:
    """Return the class, and its settings if it has any."""
    if scheduler is None:
        return None
    return read_scheduler(scheduler if isinstance(scheduler, str) else scheduler.model_dump()).plain


Adapters = Annotated[tuple[LoraSpec, ...], BeforeValidator(tuple_from_list)]


class DiffusersBackendSpec(BackendSection):
    """Local generation with Diffusers."""

    needs_card: ClassVar[bool] = True
    loads_by_card: ClassVar[bool] = True
    #: What a VAE scales by at least.
    side_multiple: ClassVar[int] = 8
    takes_scheduler: ClassVar[bool] = True

    kind: Literal["diffusers"] = "diffusers"
    model_path: Identity[WeightsPath | None] = None
    """Folder or file with the weights, relative to the spec; by default the model id in the hub cache.

    `${NAME}` is replaced.
    """
    config_path: Identity[WeightsPath | None] = None
    """Folder with the configuration of a `model_path` that is one file; by default the file's own, else the hub cache.

    Relative to the spec; `${NAME}` is replaced.
    """
    revision: Identity[Annotated[str | None, FromVariable()]] = None
    """Branch, tag or commit of the model's repository."""
    variant: Identity[Annotated[str | None, FromVariable()]] = None
    """Variant of the weight files, for example `fp16`."""
    allow_download: Runtime[Annotated[bool, Outside("download what is missing of {model}"), FromVariable()]] = False
    """Whether missing weights may be fetched from the hub."""
    cache_dir: Runtime[Annotated[Annotated[str, Outside("load {value}")] | None, FromVariable()]] = None
    """Folder of the hub cache."""
    device: Identity[Annotated[Text, CountsAs(lambda device: device.partition(":")[0]), FromVariable()]] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Identity[
        Annotated[
            Literal["auto", "float32", "float16", "bfloat16"],
            FromVariable("ABSTRACTVISION_DIFFUSERS_TORCH_DTYPE", "`auto`, `float32`, `float16`, `bfloat16`."),
        ]
    ] = "auto"
    """`auto` takes the card's native dtype on a GPU and float32 on a CPU."""
    scheduler: Identity[Annotated[Text | SchedulerSpec | None, CountsAs(_as_meant)]] = None
    """Scheduler, by a name such as `Euler a` or `DPM++ 2M Karras`, or by its class; the default is the model's own.

    With settings it is a mapping: `{name: DPMSolverMultistepScheduler, timestep_spacing: trailing}`.
    """
    loras: Identity[Adapters] = ()
    """LoRA adapters that act on every request that names no set."""
    lora_sets: Identity[Annotated[dict[OwnName, Adapters], Requests()]] = Field(default_factory=dict)
    """Adapters by a name, for a sweep or a column over `loras`: `{soft: [{source: soft.safetensors}], none: []}`."""
    rapid_aio_repo: Identity[Annotated[Text, LocalPath(or_hub_id=True)] | None] = None
    """Folder, relative to the spec, or hub id of a transformer that stands in for the model's own."""
    threads: Identity[Annotated[int, Field(ge=1, le=1024)]] = 1
    """CPU threads of one worker. Pinned, because it changes pixels by a level."""
    attention_slicing: Identity[bool] = False
    vae_slicing: Identity[bool] = False
    vae_tiling: Identity[bool] = False
    offload: Runtime[Literal["none", "model", "sequential"]] = "none"
    """Where weights wait while they are not used."""
    quantization: Identity[Literal["none", "int8", "float8", "nf4"]] = "none"
    """Of the denoiser's weights: `int8` and `float8` need torchao, `nf4` needs bitsandbytes."""
    torch_compile: Identity[Literal["none", "default", "reduce-overhead", "max-autotune"]] = "none"
    """Mode of `torch.compile` for the denoiser; the first pass of each batch size and picture size takes minutes."""
    attention_backend: Identity[Text | None] = None
    """Diffusers' name of the denoiser's attention kernels, for example `flash`; by default PyTorch chooses."""
    auto_retry_fp32: Identity[Annotated[bool, FromVariable()]] = True
    """Whether black or NaN output is generated again in float32."""

    @property
    def adapter_sets(self) -> Mapping[str, Sequence[LoraSpec]]:
        return {"": self.loras, **self.lora_sets}

    @property
    def cpus(self) -> int:
        return self.threads

    def as_meant(self, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """A scheduler's name, its class and settings are one."""
        value = extra.get("scheduler")
        try:
            return extra if value is None else {**extra, "scheduler": read_scheduler(value).plain}
        except ValueError:
            return extra  # it is wrong, which the check says

    @property
    def downloads(self) -> bool:
        return self.allow_download

    def wants_gpu(self, *, found: bool) -> bool:
        return self.device.startswith("cuda") or (self.device == "auto" and found)

    @property
    def pinned_device(self) -> str | None:
        return self.device if ":" in self.device else None

    def at_path(self, path: str) -> Self:
        return self.model_copy(update={"model_path": path}) if self.model_path is None else self

    def gpu_bytes(self, card: ModelCard) -> int | None:
        native = super().gpu_bytes(card)
        if native is None or self.offload != "none":
            return None
        widened = self.dtype == "float32" and card.backends[self.kind].get("dtype") in ("float16", "bfloat16")
        return 2 * native if widened else native
