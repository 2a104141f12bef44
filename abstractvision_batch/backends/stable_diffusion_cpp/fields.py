"""The `backend` section of a spec for stable-diffusion.cpp, each field with what the engine calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from abstractvision_batch.documents.strict_model import Number, StrictModel, StrTuple, Text, tuple_from_list
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.fields import OwnName, WeightsPath
from abstractvision_batch.job.marks import FromVariable, Identity, Mark, Outside, Requests, Runtime, Secret
from abstractvision_batch.registry.model_card import ModelCard

SAMPLE, TILING = "sample_params", "vae_tiling_params"


@dataclass(frozen=True, slots=True)
class Option(Mark):
    """What the engine calls a parameter: flags, argument of the Python package, and place in the server's JSON."""

    kind: type
    flags: tuple[str, ...]
    """Candidates: which of them a program takes is probed (`program`)."""
    argument: str
    place: tuple[str, ...] = ()
    """Of what a request may choose; none where it is chosen once, when the model loads."""
    name: str = ""
    """What the backend's configuration calls it, if not as the field."""


class LoraFileSpec(StrictModel):
    """One LoRA file; the base weights stay as they are."""

    source: WeightsPath
    """File, relative to the spec."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0


Adapters = Annotated[tuple[LoraFileSpec, ...], BeforeValidator(tuple_from_list)]


class SdcppBackendSpec(BackendSection):
    """Local generation with stable-diffusion.cpp: one file of a whole model, or a denoiser and its components.

    Paths of weights are relative to the spec; `${NAME}` is replaced in them.
    """

    needs_card: ClassVar[bool] = True
    #: What a UNet wants.
    side_multiple: ClassVar[int] = 64
    takes_scheduler: ClassVar[bool] = True

    kind: Literal["sdcpp"] = "sdcpp"
    mode: Runtime[Literal["auto", "cli", "server", "python"]] = "auto"
    """`server` and `python` load the model once for a worker, `cli` for every request.

    `auto`: `cli` where there is an sd-cli, else `python`.
    """
    model_path: Identity[
        Annotated[
            WeightsPath | None,
            Option(str, ("--model", "-m"), "model_path", name="model"),
            FromVariable("ABSTRACTVISION_SDCPP_MODEL", "A whole model in one file."),
        ]
    ] = None
    """The whole model in one file (safetensors, GGUF, ckpt), or a Diffusers folder of a UNet model."""
    diffusion_model: Identity[
        Annotated[WeightsPath | None, Option(str, ("--diffusion-model",), "diffusion_model_path"), FromVariable()]
    ] = None
    """The denoiser alone; its encoders and VAE are named below."""
    high_noise_diffusion_model: Identity[
        Annotated[WeightsPath | None, Option(str, ("--high-noise-diffusion-model",), "high_noise_diffusion_model_path")]
    ] = None
    """The second denoiser of Wan 2.2."""
    vae: Identity[Annotated[WeightsPath | None, Option(str, ("--vae",), "vae_path"), FromVariable()]] = None
    """VAE of a `diffusion_model`."""
    taesd: Identity[Annotated[WeightsPath | None, Option(str, ("--taesd", "--tae"), "taesd_path")]] = None
    """A tiny autoencoder in place of the VAE: fast and rough."""
    clip_l: Identity[Annotated[WeightsPath | None, Option(str, ("--clip_l",), "clip_l_path"), FromVariable()]] = None
    """CLIP-L text encoder of a `diffusion_model`."""
    clip_g: Identity[Annotated[WeightsPath | None, Option(str, ("--clip_g",), "clip_g_path"), FromVariable()]] = None
    """CLIP-G text encoder of a `diffusion_model`."""
    clip_vision: Identity[Annotated[WeightsPath | None, Option(str, ("--clip_vision",), "clip_vision_path")]] = None
    t5xxl: Identity[Annotated[WeightsPath | None, Option(str, ("--t5xxl",), "t5xxl_path"), FromVariable()]] = None
    """T5 text encoder of a `diffusion_model`."""
    llm: Identity[Annotated[WeightsPath | None, Option(str, ("--llm", "--qwen2vl"), "llm_path"), FromVariable()]] = None
    """Language model of a `diffusion_model`."""
    llm_vision: Identity[
        Annotated[
            WeightsPath | None,
            Option(str, ("--llm_vision", "--qwen2vl_vision"), "llm_vision_path"),
            FromVariable(),
        ]
    ] = None
    """The language model's vision part."""
    lora_dir: Identity[Annotated[WeightsPath | None, Option(str, ("--lora-model-dir",), "lora_model_dir")]] = None
    """Folder in which `<lora:name:scale>` in a prompt finds its file."""
    loras: Identity[Adapters] = ()
    """LoRA adapters that act on every request that names no set."""
    lora_sets: Identity[Annotated[dict[OwnName, Adapters], Requests()]] = Field(default_factory=dict)
    """Adapters by a name, for a sweep or a column over `loras`: `{soft: [{source: soft.safetensors}], none: []}`."""
    weight_type: Identity[Annotated[Text | None, Option(str, ("--type",), "wtype")]] = None
    """Type that weights are converted to while they load: `f16`, `q8_0`, `q4_0`, ..."""
    sampler: Identity[
        Annotated[Text | None, Option(str, ("--sampling-method",), "sample_method", (SAMPLE, "sample_method"))]
    ] = None
    """`euler`, `dpm++2m`, ...; by default `euler` for transformers, `euler_a` for UNets."""
    scheduler: Identity[Annotated[Text | None, Option(str, ("--scheduler",), "scheduler", (SAMPLE, "scheduler"))]] = (
        None
    )
    """`discrete`, `karras`, `simple`, ...; the default is the model's own."""
    eta: Identity[
        Annotated[Annotated[Number, Field(ge=0, le=100)] | None, Option(float, ("--eta",), "eta", (SAMPLE, "eta"))]
    ] = None
    """Noise of an ancestral sampler; the default is the sampler's own."""
    flow_shift: Identity[
        Annotated[
            Annotated[Number, Field(ge=0, le=1000)] | None,
            Option(float, ("--flow-shift",), "flow_shift", (SAMPLE, "flow_shift")),
        ]
    ] = None
    """The default is the model's own."""
    rng: Identity[Annotated[Literal["cpu", "cuda", "std_default"], Option(str, ("--rng",), "rng_type")]] = "cpu"
    """Whose random numbers a seed gives: PyTorch's of a CPU or of a GPU, on any machine."""
    flash_attention: Identity[Annotated[bool, Option(bool, ("--diffusion-fa",), "diffusion_flash_attn")]] = False
    vae_tiling: Identity[Annotated[bool, Option(bool, ("--vae-tiling",), "vae_tiling", (TILING, "enabled"))]] = False
    offload_to_cpu: Runtime[Annotated[bool, Option(bool, ("--offload-to-cpu",), "offload_params_to_cpu")]] = False
    clip_on_cpu: Runtime[Annotated[bool, Option(bool, ("--clip-on-cpu",), "keep_clip_on_cpu")]] = False
    vae_on_cpu: Runtime[Annotated[bool, Option(bool, ("--vae-on-cpu",), "keep_vae_on_cpu")]] = False
    mmap: Runtime[Annotated[bool, Option(bool, ("--mmap",), "enable_mmap")]] = False
    threads: Runtime[
        Annotated[int, Field(ge=1, le=1024), Option(int, ("--threads", "-t"), "n_threads", name="n_threads")]
    ] = 1
    """CPU threads of one worker. They do not change pixels."""
    timeout_s: Runtime[
        Annotated[
            Number,
            Field(gt=0, le=86400),
            FromVariable("ABSTRACTVISION_TIMEOUT_S", "Seconds for one request, and for loading."),
        ]
    ] = 3600.0
    """For one request, and for loading the model."""
    extra_args: Identity[
        Annotated[StrTuple, Secret("argument"), Outside("start sd-cli with {value}"), FromVariable()]
    ] = ()
    """More arguments of the program; those that have a field here are refused."""
    sd_cli_path: Runtime[
        Annotated[
            Text,
            Outside("start the program {value}"),
            FromVariable("ABSTRACTVISION_SDCPP_BIN", "The `sd-cli` program: a name on PATH, or a path."),
        ]
    ] = "sd-cli"
    """A name to look up on PATH, or a path."""
    sd_server_path: Runtime[Annotated[Text, Outside("start the program {value}")] | None] = None
    """By default beside sd-cli, or on PATH."""

    @property
    def adapter_sets(self) -> Mapping[str, Sequence[LoraFileSpec]]:
        return {"": self.loras, **self.lora_sets}

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


_OF_FIELD = {
    name: mark
    for name, info in SdcppBackendSpec.model_fields.items()
    for mark in info.metadata
    if isinstance(mark, Option)
}
#: What the backend's configuration calls fields that have another name there.
RENAMED = {name: option.name for name, option in _OF_FIELD.items() if option.name}
#: The options of the fields that have one, by the names of the configuration.
OPTIONS = {option.name or name: option for name, option in _OF_FIELD.items()}
#: Those that name a file of weights.
WEIGHTS = tuple(name for name, option in OPTIONS.items() if option.argument.endswith("_path"))
