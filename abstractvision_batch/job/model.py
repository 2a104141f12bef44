"""The job spec: what a YAML file may say, with every default written once.

The JSON Schema is generated from these models. `Not covered:` reading YAML and naming line numbers (`load`), checking
against a model card (`check`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from abstractvision_batch.backends.table import BACKENDS, list_backends, load_section_class
from abstractvision_batch.documents.by_kind import ByKind
from abstractvision_batch.documents.messages import FieldProblems
from abstractvision_batch.documents.strict_model import IN_RECORD, Number, StrictModel, StrTuple, Text, tuple_from_list
from abstractvision_batch.job.backend_section import BackendSection, UnknownSection
from abstractvision_batch.job.draw import DrawSpec
from abstractvision_batch.job.fields import MAX_SEED, MAX_SIDE, MAX_STEPS, Auto, FrameRate, FromEnv, OwnName
from abstractvision_batch.job.marks import (
    CountsAs,
    Identity,
    Interpolated,
    LocalPath,
    Outside,
    Requests,
    Runtime,
    Secret,
    Timed,
)
from abstractvision_batch.job.param_names import require_other, require_param
from abstractvision_batch.job.prompt_files import FRAME_NAME
from abstractvision_batch.job.ranges import MAX_VALUES, ParamValues, Range, list_values
from abstractvision_batch.job.ray_sections import ActorCount, ActorRange, Resources, RuntimeEnvSpec
from abstractvision_batch.types import Fit, Task

BackendSpec = Annotated[BackendSection, ByKind(list_backends, load_section_class, tuple(BACKENDS), UnknownSection)]
DEFAULT_BACKEND = load_section_class("diffusers")(kind="diffusers")
StorageOptions = Annotated[
    dict[str, str | int | bool | float | FromEnv],
    Secret("option"),
    Outside("use the option {key} of a store", with_secret="read {value} for the option {key} of a store"),
]


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
    fps: FrameRate | None = None
    """Frames per second of the written video; a fraction as 23.976 or `"24000/1001"`."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), Timed()] = 0
    """Base seed: each request's seed is derived from it, the prompt's id and the sample's number."""
    extra: Annotated[dict[str, Any], Secret("key")] = Field(default_factory=dict)
    """Parameters that only this backend knows."""

    @model_validator(mode="after")
    def _extra_is_finite(self) -> Params:
        bad = [key for key, value in self.extra.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise ValueError(f"extra.{bad[0]} is not a finite number")
        return self

    def asks_for(self, name: str) -> bool:
        """Tell whether somebody set a parameter: by its value, because a recorded spec has every field."""
        value = getattr(self, name)
        return bool(value != 0) if name == "seed" else value is not None


class Fields(StrictModel):
    """Which column of the prompt dataset feeds which field; a field left out reads the column of its own name, if any.

    `null` says that no column feeds the field, even one of its name. A column that feeds a field does not pass through.
    Other parameters are fed where it is said: `extra.clip_skip: skip`, `loras: style`, `scheduler: sampler`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(require_other)], str | None] = Field(init=False)

    prompt: str | None = "prompt"
    id: str | None = "id"
    negative_prompt: str | None = "negative_prompt"
    seed: str | None = "seed"
    image: str | None = "image"
    """Column with the path or URL of the input image; relative paths start at the prompt file's folder."""
    mask: str | None = "mask"
    """Column with the path or URL of the mask; white pixels change, or transparent ones where it has any."""
    width: str | None = "width"
    height: str | None = "height"
    steps: str | None = "steps"
    guidance_scale: str | None = "guidance_scale"
    strength: str | None = "strength"
    num_frames: str | None = "num_frames"
    fps: str | None = "fps"

    @property
    def others(self) -> dict[str, str]:
        """The column of each parameter that only a model's pipeline, server or program has."""
        return {name: column for name, column in (self.model_extra or {}).items() if column is not None}


SourcePath = Annotated[Text, Interpolated(), Timed()]


class SourceSpec(StrictModel):
    """Where prompts come from, where that takes more words than a path: one of `files`, `run`, `images`, `dataset`."""

    written: ClassVar[str] = "a mapping with one of files, run, images and dataset"
    unwritten: ClassVar[frozenset[str]] = frozenset({"frame"})

    files: Annotated[tuple[SourcePath, ...], BeforeValidator(tuple_from_list), Field(min_length=1)] | None = None
    """Paths, URLs and globs of prompt files, in any mixture; their rows follow each other in this order."""
    run: SourcePath | None = None
    """Folder or URL of another run: its rows are the prompts, its pictures the input images."""
    where: Text | None = None
    """Of `run`: a condition of SQL over its manifest; rows that did not succeed only where it names `status`."""
    images: SourcePath | None = None
    """Folder or glob of pictures: each is the input image of a row, whose prompt is `prompts.template`."""
    masks: SourcePath | None = None
    """Of `images`: folder or glob of their masks, of the same names; else `x_mask.png` is that of `x.png`."""
    dataset: SourcePath | None = None
    """Hugging Face data set: `hf://datasets/owner/name`, or a folder of one on the disk."""
    config: Text | None = None
    """Of `dataset`: its configuration, where it has several."""
    split: Text | None = None
    """Of `dataset`: `train`, `test[:100]` and so on; may be left out where it has only one."""
    revision: Text | None = None
    """Of `dataset`: branch, tag or commit."""
    streaming: bool = False
    """Of `dataset`: read rows as they are needed, without downloading the whole of it."""
    frame: Annotated[str, StringConstraints(pattern=FRAME_NAME)] | None = None
    """File in the run's own folder to which `avb.run(…, prompts=frame)` wrote a table; nobody writes this by hand."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> SourceSpec:
        kinds = [name for name in SOURCE_OPTIONS if getattr(self, name) is not None]
        if len(kinds) != 1:
            known = ", ".join(name for name in SOURCE_OPTIONS if name != "frame")
            said = f"has {' and '.join(kinds)} (give one of them)" if kinds else f"names no source (one of {known})"
            raise ValueError(said)
        of_others = [name for kind, names in SOURCE_OPTIONS.items() for name in names if kind != kinds[0]]
        stray = [name for name in of_others if getattr(self, name) not in (None, False)]
        if stray:
            owners = {name: kind for kind, names in SOURCE_OPTIONS.items() for name in names}
            raise FieldProblems([((name,), f"is of a source with {owners[name]} (leave it out)") for name in stray])
        return self


#: Kinds of sources, with the fields that go with each.
SOURCE_OPTIONS: dict[str, tuple[str, ...]] = {
    "files": (),
    "run": ("where",),
    "images": ("masks",),
    "dataset": ("config", "split", "revision", "streaming"),
    "frame": (),
}


class DynamicGrammar(StrictModel):
    """Prompts in the grammar of dynamic prompts, and how many each stands for."""

    written: ClassVar[str] = "dynamic, or a mapping {kind: dynamic, mode: random, n: 4}"

    kind: Literal["dynamic"] = "dynamic"
    mode: Literal["combinatorial", "random"] = "combinatorial"
    """`combinatorial`: all that the prompt of a row stands for; `random`: drawn by `params.seed`."""
    n: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Prompts of each row: how many are drawn (1), or at most how many of all are taken (all, up to 10,000)."""
    wildcards: Annotated[Text, LocalPath(does=None)] | None = None
    """Folder of the wildcards, text, YAML or JSON files, relative to the spec: `__colours/warm__`."""


def _without_path(grammar: DynamicGrammar | None) -> DynamicGrammar | None:
    """The wildcards count by their content, with the prompts."""
    return grammar and grammar.model_copy(update={"wildcards": None})


Grammar = Annotated[
    DynamicGrammar,
    BeforeValidator(
        lambda given: DynamicGrammar() if given == "dynamic" else given,
        json_schema_input_type=Literal["dynamic"] | DynamicGrammar,
    ),
]


class PromptsSpec(StrictModel):
    """The prompt dataset."""

    source: Runtime[SourcePath | list[str | dict[str, Any]] | SourceSpec]
    """Inline list of prompts or rows; or path, URL or glob of txt, csv, tsv, jsonl, json or parquet files, or a list.

    Or a mapping with one of `files`, `run`, `images` and `dataset`. A path is relative to the spec; files may be
    compressed (`.gz`, `.bz2`, `.xz`, `.zst`). `${NAME}` and `{{ scheduled_at }}` are replaced in a path or URL, not in
    inline prompts.
    """
    format: Identity[Literal["auto", "txt", "csv", "tsv", "jsonl", "json", "parquet", "one_per_file", "a1111"]] = "auto"
    """`auto` goes by the file's extension.

    `one_per_file`: each text file is one prompt, whose id is the file's name. `a1111`: lines of options, as
    `--prompt "a fox" --steps 20`.
    """
    comments: Identity[Text | None] = None
    """Lines of a text file that begin with this are left out: `"#"`."""
    fields: Identity[Fields] = Fields()
    fit: Identity[Annotated[Fit, CountsAs(lambda fit: "error" if fit == "stretch" else fit)]] = "error"
    """How input images and masks come to a `width` and `height` of another aspect than theirs.

    `error`: not at all; `crop`: their middle is kept; `pad`: white is added, where nothing changes; `stretch`: they are
    distorted. Where only one of `width` and `height` is given, the other follows from each image.
    """
    template: Identity[Text | None] = None
    """Jinja2 template of the prompt over the row's columns; an unknown column is an error."""
    grammar: Identity[Annotated[Grammar | None, CountsAs(_without_path)]] = None
    """`dynamic`: `{a|b}`, `{2$$a|b|c}` and `__wildcard__` in a prompt make several of it, by `dynamicprompts`."""
    where: Identity[Text | None] = None
    """Jinja2 expression over the row's columns; rows for which it is false are left out."""
    shuffle: Identity[Annotated[Annotated[int, Field(ge=0, le=MAX_SEED)] | None, Timed()]] = None
    """Seed of a shuffle before `limit`; a long dataset is sorted on the disk."""
    limit: Identity[Annotated[int, Field(ge=1)] | None] = None
    """At most this many prompts."""
    drop: Identity[StrTuple] = ()
    """Columns that do not pass through to the manifest."""
    rename: Identity[dict[str, Text]] = Field(default_factory=dict)
    """New names of columns that pass through."""
    storage_options: Runtime[StorageOptions] = Field(default_factory=dict)
    """fsspec options of the source; secrets as `{env: NAME}`."""


class RegistrySpec(StrictModel):
    """More model cards."""

    paths: Annotated[StrTuple, Interpolated()] = ()
    """Card files or folders, relative to the spec; their cards win over packaged ones. `${NAME}` is replaced."""


class OutputSpec(StrictModel):
    """Where the run lives and how artifacts are encoded."""

    path: Runtime[Annotated[Text, Interpolated(), Timed()]]
    """Folder or URL of the run, one run each; a relative path starts at the current folder.

    `${NAME}` is replaced, and time fields of a schedule: `{{ scheduled_at }}`, `{{ date }}` and so on.
    """
    image_format: Identity[
        Annotated[Literal["png", "jpeg", "webp"], CountsAs(lambda name: "png" if name == "webp" else name)]
    ] = "png"
    """`png` and `webp` are lossless."""
    jpeg_quality: Identity[Annotated[int, Field(ge=1, le=100)]] = 95
    embed_metadata: Runtime[bool] = True
    """Write into each PNG, JPEG, WebP and MP4 what made it, and that a model did; never changes a pixel."""
    layout: Runtime[Literal["files", "webdataset", "parquet"]] = "files"
    """`files`: a file for each picture or video; `webdataset`, `parquet`: a tar or a Parquet file for each shard.

    A run keeps the layout that it started with.
    """
    gallery: Runtime[bool] = True
    """Write `gallery/index.html` at the end, a page to look at the run with, and its thumbnails while it goes."""
    storage_options: Runtime[StorageOptions] = Field(default_factory=dict)
    """fsspec options of the store; secrets as `{env: NAME}`."""


class BudgetSpec(StrictModel):
    """What a run may spend. A shard that might cost more than what is left does not start; running ones finish.

    The run then says why it stopped and ends with exit code 1; with a larger budget the same command goes on.
    """

    requests: Annotated[int, Field(ge=1)] | None = None
    """Tries of requests, repeated ones included, in all invocations and retries of the run."""
    usd: Annotated[Number, Field(gt=0, le=1_000_000_000)] | None = None
    """Cost of those tries, by `backend.price` or the card's; a try that failed counts as billed."""
    wall_s: Annotated[Number, Field(gt=0, le=31_536_000)] | None = None
    """Seconds of one invocation, once its plan is made, after which no shard starts; running ones finish."""

    @property
    def counts(self) -> bool:
        """Whether tries are limited."""
        return self.requests is not None or self.usd is not None


class ExecutionSpec(StrictModel):
    """How the plan is cut and worked off."""

    executor: Runtime[Literal["auto", "inline", "ray"]] = "auto"
    """`inline`: shards run in this process; `ray`: on Ray actors, of this machine or of a cluster.

    `auto`: `ray` where `address` or `RAY_ADDRESS` is set, or this machine has more GPUs than one that the job can use;
    else `inline`. Pixels are the same.
    """
    batch_size: Identity[Annotated[int, Field(ge=1, le=4096)] | Auto] = "auto"
    """Requests of one forward pass; `auto` takes the card's."""
    shard_size: Runtime[Annotated[int, Field(ge=1, le=65536)] | Auto] = "auto"
    """Requests of one shard, rounded up to whole batches; `auto` goes by the size of the job."""
    actors: Runtime[ActorCount | ActorRange | Auto] = "auto"
    """Ray actors, at most one per shard: a number, `{min: 2, max: 16}` for a cluster that grows, or `auto`.

    `auto` takes what the cluster has room for, also on nodes that join later. Variants that need different actors have
    so many of each.
    """
    gpus_per_actor: Runtime[Annotated[Number, Field(ge=0, le=1024)] | Auto] = "auto"
    """`auto`: what the model needs of the cluster's smallest GPU, 1 or a share of it; 0 where none is used."""
    cpus_per_actor: Runtime[Annotated[Number, Field(gt=0, le=1024)] | Auto] = "auto"
    """`auto`: the backend's threads."""
    accelerator_type: Runtime[Text | None] = None
    """Ray's name of the GPU that each actor needs: `H100`, `A100`, `L4`, ..."""
    resources: Runtime[Resources] = Field(default_factory=dict)
    """Custom resources of Ray nodes that each actor takes: `{tpu_slice: 1}`."""
    runtime_env: Runtime[Annotated[RuntimeEnvSpec, Secret("key"), Outside("set up workers with its {name}")]] = (
        RuntimeEnvSpec()
    )
    """Ray's runtime environment of the workers; not of `executor: inline`."""
    address: Runtime[Annotated[Text, Outside("join the Ray cluster at {value}")] | None] = None
    """Ray cluster that `run` joins, as `head:6379`; `local` starts one here. For `submit`, the URL of its dashboard.

    The default joins `RAY_ADDRESS`, or one that runs on this machine, or starts one here.
    """
    node_wait_s: Runtime[Annotated[Number, Field(gt=0, le=2_592_000)]] = 600.0
    """How long a Ray run waits, where no node can hold a worker, for one that joins."""
    max_attempts: Runtime[Annotated[int, Field(ge=1, le=100)]] = 3
    """Tries of a request that failed for a passing reason, and of a shard whose worker died."""
    max_failed: Runtime[Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | None] = None
    """Failed rows, as a count or as a share of all requests, beyond which the run stops; raised, it goes on."""
    stop_when_all_fail: Runtime[bool] = True
    """Stop when the first 16 requests of an invocation all fail in the same permanent way; the others are not run."""
    budget: Runtime[BudgetSpec] = BudgetSpec()
    request_timeout_s: Runtime[Annotated[Number, Field(gt=0, le=604_800)] | None] = None
    """For one request; a batch has the time of all of its. On Ray alone, where what hangs can be ended."""
    shard_timeout_s: Runtime[Annotated[Number, Field(gt=0, le=2_592_000)] | None] = None
    """For one shard's generation; requests that are not done by then are failed rows."""
    drain_timeout_s: Runtime[Annotated[Number, Field(gt=0, le=2_592_000)] | None] = None
    """After Ctrl-C or SIGTERM, running shards have so long to finish, then they are cancelled; by default, no limit."""
    writer_threads: Runtime[Annotated[int, Field(ge=1, le=256)]] = 2
    """Threads of a worker that encode and store while the next batch generates."""
    batch_canary: Runtime[bool] = True
    """At the start, two requests of the first batch are generated alone too: another picture stops the run."""
    seed_canary: Runtime[bool] = True
    """The first two requests that differ in their seed alone are compared: equal pixels from a server stop the run."""


ParamName = Annotated[str, AfterValidator(require_param)]


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Seeds = Annotated[Annotated[list[Seed], Field(max_length=MAX_VALUES)] | Range, AfterValidator(list_values)]


class JobSpec(StrictModel):
    """A batch job: one task, one model, one backend, a prompt dataset and what varies over it."""

    version: Identity[Literal[1]] = 1
    """Version of this format."""
    extends: Runtime[Text | None] = None
    """Spec that this one is written over; its path starts at this one's folder.

    Mappings are merged, anything else replaces what stands there, and `null` unsets it. A run records what comes out.
    """
    name: Runtime[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"), Timed()]]
    """Up to 100 letters, digits, dots, dashes and underscores."""
    description: Runtime[Annotated[str | None, Timed()]] = None
    """For people."""
    task: Identity[Task] = "text_to_image"
    model: Identity[Text]
    """Id of a model card or of a repository in the hub cache; or a folder or file, as `./my-finetune`.

    A path is relative to the spec. What has no card is described by its own files, and so checked.
    """
    backend: Identity[BackendSpec] = DEFAULT_BACKEND
    variants: Identity[dict[OwnName, dict[str, Any]]] = Field(default_factory=dict)
    """Several ways to make the same prompts: by name, what is different of model, backend, params, prompts.template,
    what varies (matrix, zip, draw, skip, seeds, samples_per_prompt) and of an actor's needs in execution.

    Mappings merge key by key, `null` takes a key away, and a backend of another kind takes the place of the job's.
    """
    registry: Runtime[RegistrySpec] = RegistrySpec()
    prompts: Annotated[PromptsSpec, Requests()]
    params: Identity[Annotated[Params, Requests()]] = Params()
    matrix: Identity[Annotated[dict[ParamName, ParamValues], Requests(), Secret("key")]] = Field(default_factory=dict)
    """Parameter values, as lists or ranges; every combination is generated for every prompt.

    Parameters are those of `params` and what only the model's pipeline, server or program has: `extra.clip_skip`,
    `scheduler`, `loras[0].scale`, and `loras`, whose values are names of `backend.lora_sets`.

    Seeds that are listed, here or in `zip`, are used as they are by the first sample of every prompt; those of further
    samples are derived from them.
    """
    zip: Identity[Annotated[dict[ParamName, ParamValues], Requests(), Secret("key")]] = Field(default_factory=dict)
    """Parameter values, as lists or ranges of equal length, walked in parallel."""
    draw: Identity[Annotated[DrawSpec | None, Requests()]] = None
    """Random search: `{n: 20, guidance_scale: {uniform: [1, 9]}}` are 20 points, drawn by `params.seed`."""
    skip: Identity[Annotated[Text | None, Requests()]] = None
    """Condition of SQL on parameters; points that meet it are left out: `steps > 30 and guidance_scale < 3`."""
    seeds: Identity[Annotated[Seeds, Requests()]] = Field(default_factory=list)
    """Seeds that each prompt is generated with at each point, as they are: in place of `samples_per_prompt`."""
    samples_per_prompt: Identity[Annotated[int, Field(ge=1, le=1_000_000), Requests()]] = 1
    """Requests per prompt and matrix point, each with its own seed."""
    output: OutputSpec
    execution: ExecutionSpec = ExecutionSpec()

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> JobSpec:
        """Return the spec that a run recorded; its backend need not be installed here.

        Raises:
            ValidationError: it is none.
        """
        return cls.model_validate(data, context=IN_RECORD)
