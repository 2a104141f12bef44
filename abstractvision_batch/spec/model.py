"""The job spec: what a YAML file may say, with every default written once.

The JSON Schema is generated from these models. `Not covered:` reading YAML and naming line numbers (`load`), checking
against a model card (`check`), which fields change pixels (`identity`).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from abstractvision_batch.types import Task

Auto = Literal["auto"]
MAX_SEED = 2**63 - 1
MAX_SIDE = 16384
MAX_STEPS = 10_000


class StrictModel(BaseModel):
    """Frozen, no unknown field, no silent coercion of a string to a number, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _tuple_from_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _float_from_int(value: object) -> object:
    # YAML writes 5 where 5.0 is meant; strict mode would refuse integers beyond 2**53 only by losing digits.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(_float_from_int)]
Text = Annotated[str, StringConstraints(min_length=1)]
StrTuple = Annotated[tuple[Text, ...], BeforeValidator(_tuple_from_list)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _require_regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


RegularExpression = Annotated[str, AfterValidator(_require_regular_expression)]
#: Parameters that a server may know by another name.
ExtensionName = Literal["negative_prompt", "seed", "steps", "guidance_scale", "strength", "num_frames", "fps"]


class FromEnv(StrictModel):
    """A secret by the name of the environment variable that holds it: `{env: NAME}`."""

    env: EnvName
    """Name of an environment variable: letters, digits and underscores."""


class Params(StrictModel):
    """Generation parameters shared by every request; what is absent takes the model card's default."""

    negative_prompt: str | None = None
    """What the image should not show."""
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    """Pixels."""
    height: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    """Pixels."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Denoising steps."""
    guidance_scale: Annotated[Number, Field(ge=0, le=1000)] | None = None
    """Classifier-free guidance weight."""
    strength: Annotated[Number, Field(ge=0, le=1)] | None = None
    """How much of the input image is replaced: 0 keeps it, 1 ignores it."""
    num_frames: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Frames of a video."""
    fps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Frames per second of the written video."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Base seed: each request's seed is derived from it, the prompt's id and the sample's number."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Parameters that only this backend knows."""

    @model_validator(mode="after")
    def _extra_is_finite(self) -> Params:
        bad = [key for key, value in self.extra.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise ValueError(f"extra.{bad[0]} is not a finite number")
        return self


class Fields(StrictModel):
    """Which column of the prompt dataset feeds which field; a field left out reads the column of its own name, if any.

    `null` says that no column feeds the field, even one of its name. A column that feeds a field does not pass through.
    """

    prompt: str | None = "prompt"
    id: str | None = "id"
    negative_prompt: str | None = "negative_prompt"
    seed: str | None = "seed"
    image: str | None = "image"
    """Column with the path or URL of the input image; relative paths start at the prompt file's folder."""
    mask: str | None = "mask"
    """Column with the path or URL of the mask; white pixels change."""
    width: str | None = "width"
    height: str | None = "height"
    steps: str | None = "steps"
    guidance_scale: str | None = "guidance_scale"
    strength: str | None = "strength"
    num_frames: str | None = "num_frames"
    fps: str | None = "fps"


class PromptsSpec(StrictModel):
    """The prompt dataset."""

    source: Annotated[str, StringConstraints(min_length=1)] | list[str | dict[str, Any]]
    """Inline list of prompts or rows; or path, URL or glob of txt, csv, tsv, jsonl or parquet files.

    A path is relative to the spec; files may be compressed (`.gz`).
    `${NAME}` is replaced in a path or URL, not in inline prompts.
    """
    format: Literal["auto", "txt", "csv", "tsv", "jsonl", "parquet"] = "auto"
    """`auto` goes by the file's extension."""
    fields: Fields = Fields()
    template: Text | None = None
    """Jinja2 template of the prompt over the row's columns; an unknown column is an error."""
    where: Text | None = None
    """Jinja2 expression over the row's columns; rows for which it is false are left out."""
    shuffle: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """Seed of a shuffle before `limit`; the whole dataset is then held in memory."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many prompts."""
    drop: StrTuple = ()
    """Columns that do not pass through to the manifest."""
    rename: dict[str, Text] = Field(default_factory=dict)
    """New names of columns that pass through."""
    storage_options: dict[str, str | int | bool | float | FromEnv] = Field(default_factory=dict)
    """fsspec options of the source; secrets as `{env: NAME}`."""


class LoraSpec(StrictModel):
    """One LoRA adapter; the base weights stay as they are."""

    source: Text
    """Folder or file, relative to the spec, or hub id."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0
    weight_name: str | None = None
    subfolder: str | None = None


class DiffusersBackendSpec(StrictModel):
    """Local generation with Diffusers."""

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
    loras: Annotated[tuple[LoraSpec, ...], BeforeValidator(_tuple_from_list)] = ()
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


class LoraFileSpec(StrictModel):
    """One LoRA file; the base weights stay as they are."""

    source: Text
    """File, relative to the spec."""
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0


class SdcppBackendSpec(StrictModel):
    """Local generation with stable-diffusion.cpp: one file of a whole model, or a denoiser and its components.

    Paths of weights are relative to the spec; `${NAME}` is replaced in them.
    """

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
    loras: Annotated[tuple[LoraFileSpec, ...], BeforeValidator(_tuple_from_list)] = ()
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


UrlPath = Annotated[str, StringConstraints(pattern=r"^/\S*$")]


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
    """Further attempts after a rate limit, server error or lost connection, inside each of `execution.max_attempts`."""
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests of one worker in flight, within its batch; fewer while the server answers that it has too many."""
    max_response_bytes: Annotated[int, Field(ge=1024)] = 256 * 2**20
    """Of a larger reply no more is read."""
    request_shape: Literal["auto", "openai", "extended", "sd_server"] = "auto"
    """`openai` sends official fields only, `extended` seed, steps and the like too, `sd_server` has them in the prompt.

    `auto`: `openai` for official hosts and OpenAI's models, else `extended`.
    """
    field_names: dict[ExtensionName, Text] = Field(default_factory=dict)
    """The server's own names of parameters: `{steps: num_inference_steps}`."""
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

    def serves(self, task: Task) -> bool:
        """Whether this configuration reaches the task."""
        if task == "multi_view_image":
            return False
        path = self.text_to_video_path if task == "text_to_video" else self.image_to_video_path
        return task.endswith("image") or self.video_mode == "videos_api" or path is not None


BackendSpec = Annotated[
    DiffusersBackendSpec | OpenAIBackendSpec | ProceduralBackendSpec | SdcppBackendSpec, Field(discriminator="kind")
]


class RegistrySpec(StrictModel):
    """More model cards."""

    paths: StrTuple = ()
    """Card files or folders, relative to the spec; their cards win over packaged ones. `${NAME}` is replaced."""


class OutputSpec(StrictModel):
    """Where the run lives and how artifacts are encoded."""

    path: Text
    """Folder or URL of the run, one run each; a relative path starts at the current folder. `${NAME}` is replaced."""
    image_format: Literal["png", "jpeg", "webp"] = "png"
    """`png` and `webp` are lossless."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    layout: Literal["files"] = "files"
    storage_options: dict[str, str | int | bool | float | FromEnv] = Field(default_factory=dict)
    """fsspec options of the store; secrets as `{env: NAME}`."""


class ExecutionSpec(StrictModel):
    """How the plan is cut and worked off."""

    executor: Literal["inline", "ray"] = "inline"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """Requests of one forward pass; `auto` takes the card's."""
    shard_size: Annotated[int, Field(ge=1, le=65536)] | Auto = "auto"
    """Requests of one shard, rounded up to whole batches; `auto` goes by the size of the job."""
    actors: Annotated[int, Field(ge=1, le=100_000)] | Auto = "auto"
    """Ray actors; `auto` fills the cluster, at most one per shard."""
    gpus_per_actor: Annotated[Number, Field(ge=0, le=1024)] | Auto = "auto"
    """`auto`: 1 where the cluster has GPUs and the backend uses them, else 0."""
    cpus_per_actor: Annotated[Number, Field(gt=0, le=1024)] | Auto = "auto"
    """`auto`: the backend's threads."""
    address: str | None = None
    """Ray address; the default starts Ray on this machine, or joins `RAY_ADDRESS`."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """Tries of a request that failed for a passing reason, and of a shard whose worker died."""
    max_failed: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Failed rows, as a count or as a share of all requests, beyond which the run stops; raised, it goes on."""
    request_timeout_s: Annotated[Number, Field(gt=0, le=604_800)] | None = None
    """For one request's generation; a batch has the time of all its requests. What hangs is a failed row."""
    shard_timeout_s: Annotated[Number, Field(gt=0, le=2_592_000)] | None = None
    """For one shard's generation; requests that are not done by then are failed rows."""
    writer_threads: Annotated[int, Field(ge=1, le=256)] = 2
    """Threads of a worker that encode and store while the next batch generates."""


ParamName = Literal[
    "negative_prompt", "width", "height", "steps", "guidance_scale", "strength", "num_frames", "fps", "seed"
]


#: Checked one by one against `Params` and the model's card (`check`).
ParamValues = Annotated[list[Any], Field(max_length=10_000)]


class JobSpec(StrictModel):
    """A batch job: one task, one model, one backend, a prompt dataset and what varies over it."""

    version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Up to 100 letters, digits, dots, dashes and underscores."""
    description: str | None = None
    """For people."""
    task: Task = "text_to_image"
    model: Text
    """Id of a model card."""
    backend: BackendSpec = DiffusersBackendSpec()
    registry: RegistrySpec = RegistrySpec()
    prompts: PromptsSpec
    params: Params = Params()
    matrix: dict[ParamName, ParamValues] = Field(default_factory=dict)
    """Lists of parameter values; every combination is generated for every prompt."""
    zip: dict[ParamName, ParamValues] = Field(default_factory=dict)
    """Lists of parameter values of equal length, walked in parallel."""
    samples_per_prompt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Requests per prompt and matrix point, each with its own seed."""
    output: OutputSpec
    execution: ExecutionSpec = ExecutionSpec()
