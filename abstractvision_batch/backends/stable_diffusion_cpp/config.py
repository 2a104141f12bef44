"""What a user says about a stable-diffusion.cpp backend, and how a job's fields become that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from abstractvision_batch.backends.stable_diffusion_cpp.fields import RENAMED, WEIGHTS

Mode = Literal["auto", "cli", "server", "python"]
Guidance = Literal["cfg", "distilled", "none"]
ImageInput = Literal["init", "reference"]

_CARD_FACTS = ("guidance", "image_input", "flow_shift", "qwen_image_zero_cond_t")


@dataclass(frozen=True, slots=True)
class Lora:
    """One LoRA file and how strongly it acts; the base weights stay as they are."""

    source: str
    scale: float = 1.0


@dataclass(frozen=True)
class StableDiffusionCppBackendConfig:
    """One model. Fields after `cwd` are keyword-only."""

    sd_cli_path: str = "sd-cli"
    """A name to look up on PATH, or a path."""
    model: str | None = None
    """A whole model in one file (safetensors, GGUF, ckpt), or a Diffusers folder of a UNet model."""
    diffusion_model: str | None = None
    """The denoiser alone; its encoders and VAE are named below."""
    vae: str | None = None
    llm: str | None = None
    llm_vision: str | None = None
    clip_l: str | None = None
    clip_g: str | None = None
    t5xxl: str | None = None
    extra_args: tuple[str, ...] = ()
    """More arguments of the program; those that this backend sets itself are refused."""
    timeout_s: float | None = 3600.0
    """Seconds for one request, and for loading; None waits for ever."""
    cwd: str | None = None
    """Folder in which the program runs, where relative paths start; None: the current one."""
    mode: Mode = field(default="auto", kw_only=True)
    """`cli` loads the model for every request; `server` and `python` keep it. `auto`: `cli` where there is an sd-cli,
    else `python`."""
    sd_server_path: str | None = field(default=None, kw_only=True)
    """None: beside sd-cli, or on PATH."""
    high_noise_diffusion_model: str | None = field(default=None, kw_only=True)
    taesd: str | None = field(default=None, kw_only=True)
    """A tiny autoencoder in place of the VAE: fast and rough."""
    clip_vision: str | None = field(default=None, kw_only=True)
    lora_dir: str | None = field(default=None, kw_only=True)
    """Folder in which `<lora:name:scale>` in a prompt finds its file."""
    loras: tuple[Lora, ...] = field(default=(), kw_only=True)
    """Act on every request that does not name its own in `extra`."""
    lora_sets: Mapping[str, tuple[Lora, ...]] = field(default_factory=dict, kw_only=True)
    """LoRAs by the name that a request's `extra.loras` may be."""
    n_threads: int | None = field(default=None, kw_only=True)
    """None: half the processors. Does not change pixels."""
    weight_type: str | None = field(default=None, kw_only=True)
    """Type that weights are converted to while they load: `f16`, `q8_0`, `q4_0`, ..."""
    rng: Literal["cpu", "cuda", "std_default"] = field(default="cpu", kw_only=True)
    """Whose random numbers a seed gives: PyTorch's of a CPU or of a GPU, on any machine."""
    sampler: str | None = field(default=None, kw_only=True)
    """None: `euler` for transformers, `euler_a` for UNets."""
    scheduler: str | None = field(default=None, kw_only=True)
    eta: float | None = field(default=None, kw_only=True)
    """None: what the sampler wants (1 for the ancestral ones)."""
    flow_shift: float | None = field(default=None, kw_only=True)
    flash_attention: bool = field(default=False, kw_only=True)
    offload_to_cpu: bool = field(default=False, kw_only=True)
    clip_on_cpu: bool = field(default=False, kw_only=True)
    vae_on_cpu: bool = field(default=False, kw_only=True)
    vae_tiling: bool = field(default=False, kw_only=True)
    mmap: bool = field(default=False, kw_only=True)
    qwen_image_zero_cond_t: bool = field(default=False, kw_only=True)
    """What Qwen-Image-Edit-2511 wants."""
    guidance: Guidance = field(default="cfg", kw_only=True)
    """What `guidance_scale` is to the model: classifier-free guidance, distilled guidance, or nothing."""
    image_input: ImageInput = field(default="init", kw_only=True)
    """What the image of an edit is to the model: what denoising starts from, or a reference beside it."""
    model_id: str | None = field(default=None, kw_only=True)
    """What metadata calls the model."""

    def weights(self) -> dict[str, str]:
        """The files of the model by field."""
        return {name: path for name in WEIGHTS if (path := getattr(self, name)) is not None}


def config_from_fields(
    fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str
) -> StableDiffusionCppBackendConfig:
    """Join a job's `backend` fields with what the model's card says for stable-diffusion.cpp; the job wins."""
    own = {name: value for name, value in fields.items() if value is not None}
    own["loras"] = tuple(Lora(**lora) for lora in own.get("loras", ()))
    sets = own.get("lora_sets", {}).items()
    own["lora_sets"] = {name: tuple(Lora(**lora) for lora in adapters) for name, adapters in sets}
    facts = {key: card_facts[key] for key in _CARD_FACTS if key in card_facts}
    own = {RENAMED.get(name, name): value for name, value in own.items()}
    return StableDiffusionCppBackendConfig(**{**facts, **own}, model_id=model)
