"""What a user says about a Diffusers backend, and how a job's fields become that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Offload = Literal["none", "model", "sequential"]

#: The kinds of pipeline that one model may have, by what goes in and out. A mask makes image_to_image an inpaint.
PIPELINE_KINDS = ("text_to_image", "image_to_image", "inpaint", "text_to_video", "image_to_video", "multi_view_image")


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
    """Folder of the weights, or `package:folder` inside this package; None: the hub cache's copy of `model_id`."""
    native_dtype: str | None = field(default=None, kw_only=True)
    """The dtype that the model was made for; bfloat16 if nothing is known."""
    pipelines: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Pipeline class by kind (`PIPELINE_KINDS`); what is left out follows from the model's own class."""
    repo_id: str | None = field(default=None, kw_only=True)
    """Hub repository of the weights where it is not `model_id`."""
    rename: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """The pipeline's name of a parameter of ours where it is not the usual one: `{"image": "control_image"}`."""
    scheduler: str | None = field(default=None, kw_only=True)
    loras: tuple[LoraAdapter, ...] = field(default=(), kw_only=True)
    angles_lora: str | None = field(default=None, kw_only=True)
    """Adapter trained on camera angles (folder, file or hub id); it acts on multi_view_image alone."""
    threads: int = field(default=1, kw_only=True)
    """CPU threads of torch in this process. Pinned, because their number changes pixels by a level."""
    attention_slicing: bool = field(default=False, kw_only=True)
    vae_slicing: bool = field(default=False, kw_only=True)
    vae_tiling: bool = field(default=False, kw_only=True)
    offload: Offload = field(default="none", kw_only=True)


def config_from_fields(
    fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str
) -> HuggingFaceDiffusersBackendConfig:
    """Join a job's `backend` fields with what the model's card says for Diffusers; the job wins."""
    own = dict(fields)
    path, dtype = own.pop("model_path", None), own.pop("dtype", None)
    loras = tuple(LoraAdapter(**lora) for lora in own.pop("loras", ()))
    return HuggingFaceDiffusersBackendConfig(
        model_id=model,
        torch_dtype=None if dtype == "auto" else dtype,
        path=path or card_facts.get("path"),
        native_dtype=card_facts.get("dtype"),
        pipelines=dict(card_facts.get("pipelines", {})),
        repo_id=card_facts.get("repo_id"),
        angles_lora=card_facts.get("lora"),
        rename=dict(card_facts.get("rename", {})),
        loras=loras,
        revision=own.pop("revision", None) or card_facts.get("revision"),
        variant=own.pop("variant", None) or card_facts.get("variant"),
        **own,
    )
