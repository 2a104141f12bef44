"""The `backend` section of a job spec, one model per kind.

*Not covered:* what a backend makes of its fields (`backends`), which of them change pixels (`fingerprint`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from abstractvision_batch.documents.strict_model import Number, StrictModel, StrTuple, Text, tuple_from_list
from abstractvision_batch.job.dialects import DIALECTS, DialectName
from abstractvision_batch.job.fields import FromEnv, RegularExpression
from abstractvision_batch.types import Task

ExtensionName = Literal["negative_prompt", "seed", "steps", "guidance_scale", "strength", "num_frames", "fps"]


class LoraSpec(StrictModel):
    """One LoRA adapter; the base weights stay as they are."""

    source: Text
    """Folder or file, relative to the spec, or hub id."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0
    weight_name: str | None = None
    subfolder: str | None = None


class DiffusersBackendSpec(StrictModel):
    """Local generation with Diffusers."""

    #: Of a side that is computed; what a VAE scales by at least.
    side_multiple: ClassVar[int] = 8

    kind: Literal["diffusers"] = "diffusers"
    model_path: Text | None = None
    """Folder or file with the weights, relative to the spec; by default the model id in the hub cache.

    `${NAME}` is replaced.
    """
    config_path: Text | None = None
    """Folder with the configuration of a `model_path` that is one file; by default the file's own, else the hub cache.

    Relative to the spec; `${NAME}` is replaced.
    """
    revision: str | None = None
    """Branch, tag or commit of the model's repository."""
    variant: str | None = None
    """Variant of the weight files, for example `fp16`."""
    allow_download: bool = False
    """Whether missing weights may be fetched from the hub."""
    cache_dir: str | None = None
    """Folder of the hub cache."""
    device: Text = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """`auto` takes the card's native dtype on a GPU and float32 on a CPU."""
    scheduler: str | None = None
    """Diffusers scheduler class, for example `EulerDiscreteScheduler`; the default is the model's own."""
    loras: Annotated[tuple[LoraSpec, ...], BeforeValidator(tuple_from_list)] = ()
    rapid_aio_repo: Text | None = None
    """Folder, relative to the spec, or hub id of a transformer that stands in for the model's own."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of one worker. Pinned, because it changes pixels by a level."""
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: Literal["none", "model", "sequential"] = "none"
    """Where weights wait while they are not used."""
    quantization: Literal["none", "int8", "float8", "nf4"] = "none"
    """Of the denoiser's weights: `int8` and `float8` need torchao, `nf4` needs bitsandbytes."""
    torch_compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = "none"
    """Mode of `torch.compile` for the denoiser; the first pass of each batch size and picture size takes minutes."""
    attention_backend: Text | None = None
    """Diffusers' name of the denoiser's attention kernels, for example `flash`; by default PyTorch chooses."""
    auto_retry_fp32: bool = True
    """Whether black or NaN output is generated again in float32."""


class ProceduralBackendSpec(StrictModel):
    """Deterministic pictures drawn from prompt and seed: a pipeline without a model."""

    kind: Literal["procedural"] = "procedural"
    delay_s: Annotated[Number, Field(ge=0, le=3600)] = 0.0
    """Seconds that each request takes."""
    load_s: Annotated[Number, Field(ge=0, le=3600)] = 0.0
    """Seconds that loading takes."""
    fail_when: RegularExpression | None = None
    """Regular expression; a request whose prompt matches fails."""
    crash_when: RegularExpression | None = None
    """Regular expression; a request whose prompt matches ends its worker process."""
    hang_when: RegularExpression | None = None
    """Regular expression; a request whose prompt matches never ends, and cannot be cancelled."""
    journal_path: Text | None = None
    """File, relative to the spec, to which each request appends a JSON line when it begins: time, process and seed."""


class LoraFileSpec(StrictModel):
    """One LoRA file; the base weights stay as they are."""

    source: Text
    """File, relative to the spec."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0


class SdcppBackendSpec(StrictModel):
    """Local generation with stable-diffusion.cpp: one file of a whole model, or a denoiser and its components.

    Paths of weights are relative to the spec; `${NAME}` is replaced in them.
    """

    #: Of a side that is computed; what a UNet wants.
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


Usd = Annotated[Number, Field(ge=0, le=1_000_000)]


class PriceSpec(StrictModel):
    """What a request costs. Token prices are used where a reply counts its tokens, and all three are needed then."""

    request_usd: Usd
    """Of one request, at most: what a budget sets aside for it, and its cost where no tokens are counted."""
    million_text_tokens_usd: Usd | None = None
    """Of a million input tokens of text."""
    million_image_tokens_usd: Usd | None = None
    """Of a million input tokens of images."""
    million_output_tokens_usd: Usd | None = None
    """Of a million output tokens."""

    @model_validator(mode="after")
    def _tokens_are_priced_together(self) -> PriceSpec:
        tokens = (self.million_text_tokens_usd, self.million_image_tokens_usd, self.million_output_tokens_usd)
        if any(price is None for price in tokens) and any(price is not None for price in tokens):
            raise ValueError("some tokens have a price and others none (price text, image and output tokens, or none)")
        return self


UrlPath = Annotated[str, StringConstraints(pattern=r"^/\S*$")]
#: Keys with dots between them, each followed by any number of `[]` (every entry) or `[0]`.
ReplyPath = Annotated[str, StringConstraints(pattern=r"^[^.\[\]\s]+(\[\d*\])*(\.[^.\[\]\s]+(\[\d*\])*)*$")]


class OpenAIBackendSpec(StrictModel):
    """Generation by a server that speaks OpenAI's image and video API: official, in the cluster or on this machine.

    It serves any model: the card need not name this backend.
    """

    kind: Literal["openai"] = "openai"
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")]
    """The `/v1`-style root: `http://127.0.0.1:8000/v1`, `https://api.openai.com/v1`."""
    api_key: FromEnv | None = None
    """Key of the server, by the variable that holds it on every worker: `{env: OPENAI_API_KEY}`."""
    headers: dict[str, str | FromEnv] = Field(default_factory=dict)
    """More headers; they go to this server only. Secrets as `{env: NAME}`."""
    served_model: Text | None = None
    """The server's own name of the model; by default the model's id."""
    timeout_s: Annotated[Number, Field(gt=0, le=86400)] = 600.0
    """For one request altogether: its retries, waits, polls and downloads; from when it gets its turn."""
    connect_timeout_s: Annotated[Number, Field(gt=0, le=3600)] = 10.0
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """Further attempts after a server error or lost connection, inside each of `execution.max_attempts`.

    A refusal for too many requests counts only where the server works on nothing of the run.
    """
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests of the whole run in flight, all workers together; fewer while the server refuses more.

    How many it bears is found out as the run goes, and followed; the limit never falls below 1.
    """
    max_response_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**20
    """Of a larger reply no more is read."""
    reply_media: ReplyPath | None = None
    """Where the pictures of a reply are, for a server that has them elsewhere than usual: `images[].url`."""
    allow_private_urls: bool = False
    """Whether a public server's reply may name a file on this machine or its network; a local server's always may."""
    price: PriceSpec | None = None
    """What the server bills for a request; by default what the model's card says, if it does."""
    repeat_unanswered: bool = True
    """Whether a request whose reply was lost is sent again at once: the server may have done it, and bill it twice.

    A run with `execution.budget` of requests or USD counts it as a try, and sends it again if the budget allows.
    """
    dialect: Literal["auto"] | DialectName = "auto"
    """What the server is, and so what it calls steps, seed and so on, and what it ignores, which is refused.

    `auto` goes by what the server says of itself, and is recorded: a run that resumes speaks as it began. `openai`:
    official fields only; `extended`: seed, steps and the like by the names that they have here.
    """
    request_shape: Literal["auto", "openai", "extended", "sd_server"] | None = None
    """What was there before `dialect`, and means what it did; `auto`: `openai` for OpenAI's own, else `extended`."""
    field_names: dict[ExtensionName, Text] = Field(default_factory=dict)
    """The server's own names of parameters, over those of its dialect: `{steps: num_inference_steps}`."""
    known_fields: StrTuple = ()
    """Fields of `params.extra` that this server reads and its dialect does not know; others are refused."""
    size_separator: Literal["x", "*"] = "x"
    """Between width and height in `size`."""
    idempotency_key: bool = True
    """Whether every attempt at a request carries the same `Idempotency-Key` header."""
    image_generations_path: UrlPath = "/images/generations"
    image_edits_path: UrlPath = "/images/edits"
    models_path: UrlPath = "/models"
    video_mode: Literal["paths", "videos_api"] = "paths"
    """`paths`: one call to the paths below; `videos_api`: create a job at `videos_path`, poll it, download."""
    text_to_video_path: UrlPath | None = None
    image_to_video_path: UrlPath | None = None
    image_to_video_mode: Literal["multipart", "json_b64"] = "multipart"
    """How the image goes to `image_to_video_path`: as a form's file, or as `image_b64` in JSON."""
    videos_path: UrlPath = "/videos"
    poll_interval_s: Annotated[Number, Field(gt=0, le=600)] = 1.0
    """Between looks at a video job, unless the server says otherwise."""

    @model_validator(mode="after")
    def _is_named_once(self) -> OpenAIBackendSpec:
        if self.request_shape is not None and self.dialect != "auto":
            raise ValueError("dialect and request_shape say the same thing twice (leave request_shape out)")
        return self

    def serves(self, task: Task) -> bool:
        """Whether this configuration reaches the task."""
        if task == "multi_view_image":
            return False
        path = self.text_to_video_path if task == "text_to_video" else self.image_to_video_path
        if task.endswith("image") or path is not None:
            return True
        by_job = self.video_mode == "videos_api"
        if self.dialect == "auto":
            return by_job
        return DIALECTS[self.dialect].endpoint(task, job=by_job) is not None


BackendSpec = Annotated[
    DiffusersBackendSpec | OpenAIBackendSpec | ProceduralBackendSpec | SdcppBackendSpec, Field(discriminator="kind")
]
