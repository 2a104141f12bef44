"""What a user says about a Diffusers backend, and how a job's fields become that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from abstractvision_batch.registry.weights import OF_A_SET

Offload = Literal["none", "model", "sequential"]
Quantization = Literal["none", "int8", "float8", "nf4"]
TorchCompile = Literal["none", "default", "reduce-overhead", "max-autotune"]

#: The kinds of pipeline that one model may have, by what goes in and out. A mask makes image_to_image an inpaint.
PIPELINE_KINDS = ("text_to_image", "image_to_image", "inpaint", "text_to_video", "image_to_video", "multi_view_image")
#: Of a field that a short program for one image cannot say, unless it has its default.
UNSAYABLE = {"unsayable": True}


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """One LoRA adapter: a folder, a file or a hub id, and how strongly it acts (0 is as if it were absent)."""

    source: str
    scale: float = 1.0
    weight_name: str | None = None
    subfolder: str | None = None


@dataclass(frozen=True)
class HuggingFaceDiffusersBackendConfig:
    """One model on one device. Fields after `low_cpu_mem_usage` are keyword-only."""

    model_id: str
    device: str = "cpu"
    """`auto` (cuda, else mps, else cpu), `cpu`, `cuda`, `cuda:1`, `mps`."""
    torch_dtype: str | None = None
    """`float32`, `float16`, `bfloat16`; None or `auto` takes `native_dtype` on a GPU and float32 on a CPU."""
    allow_download: bool = False
    auto_retry_fp32: bool = True
    cache_dir: str | None = None
    revision: str | None = None
    variant: str | None = None
    use_safetensors: bool = True
    low_cpu_mem_usage: bool = True
    path: str | None = field(default=None, kw_only=True)
    """Folder of the weights, `package:folder` inside this package, or a checkpoint: one `.safetensors` or `.ckpt` file.

    None: the hub cache's copy of `model_id`.
    """
    config_path: str | None = field(default=None, kw_only=True)
    """Of a checkpoint: folder with `model_index.json` and the components' configurations.

    None: the checkpoint's own folder if it has one, else the hub cache's copy of `model_id`. What the checkpoint lacks
    (text encoders, a VAE) is read from there too.
    """
    native_dtype: str | None = field(default=None, kw_only=True)
    """The dtype that the model was made for; bfloat16 if nothing is known."""
    pipelines: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Pipeline class by kind (`PIPELINE_KINDS`); what is left out follows from the model's own class."""
    repo_id: str | None = field(default=None, kw_only=True)
    """Hub repository of the weights where it is not `model_id`."""
    repo_ids: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Hub repository by kind, where each kind has weights of its own; one of them is in memory at a time."""
    subfolder: str | None = field(default=None, kw_only=True)
    """Folder of the pipeline inside its repository."""
    components: Mapping[str, str] = field(default_factory=dict, kw_only=True, metadata=UNSAYABLE)
    """Folder or hub id of components that the model's own repository lacks."""
    rename: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """The pipeline's name of a parameter of ours where it is not the usual one: `{"image": "control_image"}`."""
    scheduler: str | Mapping[str, Any] | None = field(default=None, kw_only=True)
    """Name of a scheduler, or `{name: ..., setting: value}`; None: the model's own. A request has `extra.scheduler`."""
    loras: tuple[LoraAdapter, ...] = field(default=(), kw_only=True)
    lora_sets: Mapping[str, tuple[LoraAdapter, ...]] = field(default_factory=dict, kw_only=True)
    """Adapters by the name that a request's `extra.loras` may be."""
    angles_lora: str | None = field(default=None, kw_only=True)
    """Adapter trained on camera angles (folder, file or hub id); it acts on multi_view_image alone."""
    rapid_aio_repo: str | None = field(default=None, kw_only=True, metadata=UNSAYABLE)
    """Folder or hub id of a transformer that stands in for the model's own; `extra.rapid_aio_repo` asks per request."""
    threads: int = field(default=1, kw_only=True)
    """CPU threads of torch in this process. Pinned, because their number changes pixels by a level."""
    attention_slicing: bool = field(default=False, kw_only=True)
    vae_slicing: bool = field(default=False, kw_only=True)
    vae_tiling: bool = field(default=False, kw_only=True)
    offload: Offload = field(default="none", kw_only=True)
    quantization: Quantization = field(default="none", kw_only=True, metadata=UNSAYABLE)
    """Of the denoiser's weights: `int8` and `float8` by torchao, `nf4` by bitsandbytes."""
    torch_compile: TorchCompile = field(default="none", kw_only=True, metadata=UNSAYABLE)
    """Mode of `torch.compile` for the denoiser; the first pass of each shape then takes minutes."""
    attention_backend: str | None = field(default=None, kw_only=True, metadata=UNSAYABLE)
    """The denoiser's attention by Diffusers' name (`native`, `flash`, `sage`); None leaves PyTorch its choice."""

    def adapters(self) -> dict[str, LoraAdapter]:
        """Return every adapter that a request may have, by what it is called in a record of weights."""
        named = {f"lora {number}": adapter for number, adapter in enumerate(self.loras, 1)}
        for name, adapters in self.lora_sets.items():
            named |= {f"{OF_A_SET}{name} {number}": adapter for number, adapter in enumerate(adapters, 1)}
        return named

    @property
    def quantized(self) -> bool:
        """Whether the denoiser's weights are made smaller, and so are neither widened nor moved."""
        return self.quantization != "none"

    def for_kind(self, kind: str | None) -> HuggingFaceDiffusersBackendConfig:
        """The configuration of one kind's weights: itself, unless kinds have repositories of their own."""
        if not self.repo_ids:
            return self
        kind = "image_to_image" if kind == "inpaint" else kind
        return replace(self, repo_id=self.repo_ids.get(kind or next(iter(self.repo_ids)), self.repo_id))


def config_from_fields(
    fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str
) -> HuggingFaceDiffusersBackendConfig:
    """Join a job's `backend` fields with what the model's card says for Diffusers; the job wins."""
    own = dict(fields)
    path, dtype = own.pop("model_path", None), own.pop("dtype", None)
    loras = tuple(LoraAdapter(**lora) for lora in own.pop("loras", ()))
    sets = own.pop("lora_sets", {}).items()
    return HuggingFaceDiffusersBackendConfig(
        model_id=model,
        torch_dtype=None if dtype == "auto" else dtype,
        path=path or card_facts.get("path"),
        native_dtype=card_facts.get("dtype"),
        pipelines=dict(card_facts.get("pipelines", {})),
        repo_id=card_facts.get("repo_id"),
        repo_ids=dict(card_facts.get("repo_ids", {})),
        subfolder=card_facts.get("subfolder"),
        components=dict(card_facts.get("components", {})),
        angles_lora=card_facts.get("lora"),
        rename=dict(card_facts.get("rename", {})),
        loras=loras,
        lora_sets={name: tuple(LoraAdapter(**lora) for lora in adapters) for name, adapters in sets},
        revision=own.pop("revision", None) or card_facts.get("revision"),
        variant=own.pop("variant", None) or card_facts.get("variant"),
        **own,
    )
