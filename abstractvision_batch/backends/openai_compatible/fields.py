"""The `backend` section of a spec for a server that speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from abstractvision_batch.backends.openai_compatible.dialect_check import dialect_of, unread_columns, unread_parameters
from abstractvision_batch.backends.openai_compatible.dialects import DIALECTS, DialectName
from abstractvision_batch.documents.strict_model import Number, StrTuple, Text
from abstractvision_batch.job.backend_section import BackendSection, Problem
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.marks import CountsAs, FromVariable, Identity, Outside, Runtime, Secret
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.prices import PriceSpec
from abstractvision_batch.types import Task

if TYPE_CHECKING:
    from abstractvision_batch.job.model import JobSpec

ExtensionName = Literal["negative_prompt", "seed", "steps", "guidance_scale", "strength", "num_frames", "fps"]

UrlPath = Annotated[str, StringConstraints(pattern=r"^/\S*$")]
#: Keys with dots between them, each followed by any number of `[]` (every entry) or `[0]`.
ReplyPath = Annotated[str, StringConstraints(pattern=r"^[^.\[\]\s]+(\[\d*\])*(\.[^.\[\]\s]+(\[\d*\])*)*$")]


class OpenAIBackendSpec(BackendSection):
    """Generation by a server that speaks OpenAI's image and video API: official, in the cluster or on this machine.

    It serves any model: the card need not name this backend.
    """

    kind: Literal["openai"] = "openai"
    base_url: Runtime[
        Annotated[
            str,
            StringConstraints(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$"),
            Outside("contact {value}"),
            FromVariable("ABSTRACTVISION_BASE_URL", "The server's `/v1`-style root."),
            FromVariable("OPENAI_BASE_URL", "The same, where nothing else names a server."),
        ]
    ]
    """The `/v1`-style root: `http://127.0.0.1:8000/v1`, `https://api.openai.com/v1`."""
    api_key: Runtime[
        Annotated[
            Annotated[FromEnv, Outside(with_secret="send it the value of {value}")] | None,
            FromVariable(
                "ABSTRACTVISION_API_KEY", "Key of `ABSTRACTVISION_BASE_URL`; of any server, if that is not set."
            ),
            FromVariable("OPENAI_API_KEY", "Key of OpenAI's server, or of `OPENAI_BASE_URL`; for no other."),
        ]
    ] = None
    """Key of the server, by the variable that holds it on every worker: `{env: OPENAI_API_KEY}`."""
    headers: Runtime[
        Annotated[
            dict[str, str | FromEnv],
            Secret("header"),
            Outside(with_secret="send it the value of {value} as {key}"),
        ]
    ] = Field(default_factory=dict)
    """More headers; they go to this server only. Secrets as `{env: NAME}`."""
    label: Identity[Text | None] = None
    """What the server is called, where a job compares servers that differ in their address alone."""
    served_model: Identity[Text | None] = None
    """The server's own name of the model; by default the model's id."""
    timeout_s: Runtime[
        Annotated[
            Number,
            Field(gt=0, le=86400),
            FromVariable("ABSTRACTVISION_TIMEOUT_S", "Seconds for one request to a server."),
        ]
    ] = 600.0
    """For one request altogether: its retries, waits, polls and downloads; from when it gets its turn."""
    connect_timeout_s: Runtime[Annotated[Number, Field(gt=0, le=3600)]] = 10.0
    retries: Runtime[Annotated[int, Field(ge=0, le=100)]] = 5
    """Further attempts after a server error or lost connection, inside each of `execution.max_attempts`.

    A refusal for too many requests counts only where the server works on nothing of the run.
    """
    max_concurrency: Runtime[Annotated[int, Field(ge=1, le=1024)]] = 16
    """Requests of the whole run in flight, all workers together; fewer while the server refuses more.

    How many it bears is found out as the run goes, and followed; the limit never falls below 1.
    """
    max_response_bytes: Runtime[Annotated[int, Field(ge=1024)]] = 256 * 2**20
    """Of a larger reply no more is read."""
    reply_media: Runtime[ReplyPath | None] = None
    """Where the pictures of a reply are, for a server that has them elsewhere than usual: `images[].url`."""
    allow_private_urls: Runtime[bool] = False
    """Whether a public server's reply may name a file on this machine or its network; a local server's always may."""
    price: Runtime[PriceSpec | None] = None
    """What the server bills for a request; by default what the model's card says, if it does."""
    repeat_unanswered: Runtime[bool] = True
    """Whether a request whose reply was lost is sent again at once: the server may have done it, and bill it twice.

    A run with `execution.budget` of requests or USD counts it as a try, and sends it again if the budget allows.
    """
    dialect: Identity[Literal["auto"] | DialectName] = "auto"
    """What the server is, and so what it calls steps, seed and so on, and what it ignores, which is refused.

    `auto` goes by what the server says of itself, and is recorded: a run that resumes speaks as it began. `openai`:
    official fields only; `extended`: seed, steps and the like by the names that they have here.
    """
    request_shape: Identity[
        Annotated[
            Literal["auto", "openai", "extended", "sd_server"] | None,
            CountsAs(lambda shape: None if shape == "auto" else shape),  # auto was the default once
        ]
    ] = None
    """What was there before `dialect`, and means what it did; `auto`: `openai` for OpenAI's own, else `extended`."""
    field_names: Identity[dict[ExtensionName, Text]] = Field(default_factory=dict)
    """The server's own names of parameters, over those of its dialect: `{steps: num_inference_steps}`."""
    known_fields: Runtime[StrTuple] = ()
    """Fields of `params.extra` that this server reads and its dialect does not know; others are refused."""
    size_separator: Runtime[Literal["x", "*"]] = "x"
    """Between width and height in `size`."""
    idempotency_key: Runtime[bool] = True
    """Whether every attempt at a request carries the same `Idempotency-Key` header."""
    image_generations_path: Runtime[
        Annotated[UrlPath, FromVariable("ABSTRACTVISION_IMAGES_GENERATIONS_PATH", host="image_generations_path")]
    ] = "/images/generations"
    """Path of images from prompts."""
    image_edits_path: Runtime[
        Annotated[UrlPath, FromVariable("ABSTRACTVISION_IMAGES_EDITS_PATH", host="image_edits_path")]
    ] = "/images/edits"
    """Path of images from images."""
    models_path: Runtime[Annotated[UrlPath, FromVariable("ABSTRACTVISION_MODELS_PATH")]] = "/models"
    """Path of the server's catalog."""
    video_mode: Identity[Literal["paths", "videos_api"]] = "paths"
    """`paths`: one call to the paths below; `videos_api`: create a job at `videos_path`, poll it, download."""
    text_to_video_path: Runtime[Annotated[UrlPath | None, FromVariable("ABSTRACTVISION_TEXT_TO_VIDEO_PATH")]] = None
    """Path of videos from prompts."""
    image_to_video_path: Runtime[Annotated[UrlPath | None, FromVariable("ABSTRACTVISION_IMAGE_TO_VIDEO_PATH")]] = None
    """Path of videos from images."""
    image_to_video_mode: Runtime[
        Annotated[
            Literal["multipart", "json_b64"],
            FromVariable("ABSTRACTVISION_IMAGE_TO_VIDEO_MODE", "`multipart` or `json_b64`."),
        ]
    ] = "multipart"
    """How the image goes to `image_to_video_path`: as a form's file, or as `image_b64` in JSON."""
    videos_path: Runtime[UrlPath] = "/videos"
    poll_interval_s: Runtime[Annotated[Number, Field(gt=0, le=600)]] = 1.0
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

    @property
    def server_url(self) -> str | None:
        return self.base_url

    @property
    def lacks_key(self) -> bool:
        return self.api_key is None and "//api.openai.com" in self.base_url

    @property
    def max_in_flight(self) -> int | None:
        return self.max_concurrency

    def refuse_task(self, card: ModelCard, task: Task) -> str | None:
        return None  # a server may serve any model

    def find_price(self, card: ModelCard | None) -> PriceSpec | None:
        return self.price or super().find_price(card)

    def how_to_price(self, model: str) -> str:
        return f"backend.price: {{request_usd: …}}, or {super().how_to_price(model)}"

    def as_begun(self, recorded: Mapping[str, Any]) -> Self:
        knew_dialects = "dialect" in recorded or self.request_shape is not None
        return self if knew_dialects else self.model_copy(update={"request_shape": "auto"})

    def without_repeats(self) -> Self:
        return self.model_copy(update={"repeat_unanswered": False})

    def find_problems(self, spec: JobSpec, card: ModelCard | None) -> Iterator[Problem]:
        if not self.serves(spec.task):
            hint = "no server"
            if spec.task.endswith("video"):
                hint = "set backend.video_mode: videos_api, or the task's path; or a backend.dialect that has videos"
            yield ("backend", "kind"), f"openai as configured does not run {spec.task} ({hint})"
        if self.lacks_key and not self.headers:
            yield ("backend", "base_url"), "this server needs a key (write api_key: {env: OPENAI_API_KEY})"
        if (dialect := dialect_of(self, spec)) is not None:
            yield from unread_parameters(self, spec, dialect)

    def unread_columns(self, spec: JobSpec, fields: Iterable[str]) -> Iterator[Problem]:
        dialect = dialect_of(self, spec)
        return iter(()) if dialect is None else unread_columns(self, spec, dialect, fields)

    def unread_by(self, settled: Mapping[str, Any], spec: JobSpec) -> Iterator[Problem]:
        if self.request_shape is not None or settled["by"] == "default":
            return iter(())
        return unread_parameters(self, spec, DIALECTS[settled["dialect"]])
