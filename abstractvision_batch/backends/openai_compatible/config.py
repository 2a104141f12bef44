"""What a user says about a server, how a job's fields become that, and which dialect follows from it, if one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from abstractvision_batch.backends.openai_compatible.dialects import (
    DIALECT_NAMES,
    DIALECTS,
    Dialect,
    is_official_url,
    known_dialect,
    openai_family,
)
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.env import resolve_secret
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.text.suggestions import hint_for
from abstractvision_batch.types import Task

Family = Literal["gpt-image", "dall-e"]


@dataclass(frozen=True)
class OpenAICompatibleBackendConfig:
    """One server and one model on it. Fields after `models_path` are keyword-only."""

    base_url: str
    """The `/v1`-style root, for example `http://localhost:1234/v1`."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer …` to `base_url` and to no other host."""
    model_id: str | None = None
    """Sent as `model`; None leaves the choice to the server."""
    timeout_s: float = 300.0
    """For one request altogether: its retries, waits, polls and downloads; from when it gets its turn."""
    image_generations_path: str = "/images/generations"
    image_edits_path: str = "/images/edits"
    text_to_video_path: str | None = None
    image_to_video_path: str | None = None
    image_to_video_mode: Literal["multipart", "json_b64"] = "multipart"
    models_path: str = "/models"
    video_mode: Literal["paths", "videos_api"] = field(default="paths", kw_only=True)
    """`paths`: one call to `text_to_video_path` or `image_to_video_path`; `videos_api`: create, poll, download."""
    videos_path: str = field(default="/videos", kw_only=True)
    poll_interval_s: float = field(default=1.0, kw_only=True)
    """Between looks at a video job, unless the server says otherwise."""
    dialect: str = field(default="auto", kw_only=True)
    """A name of `job.dialects`; `auto` asks the server what it is, unless host or model say that it is OpenAI's."""
    request_shape: Literal["auto", "openai", "extended", "sd_server"] | None = field(default=None, kw_only=True)
    """What was there before `dialect`, and means what it did; `auto`: `openai` for OpenAI's own, else `extended`."""
    field_names: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """The server's own names of parameters, over those of its dialect, for example `{steps: num_inference_steps}`."""
    known_fields: tuple[str, ...] = field(default=(), kw_only=True)
    """Fields of `extra` that the server reads and its dialect does not know."""
    card_id: str | None = field(default=None, kw_only=True)
    """The model's own id, where `model_id` is the server's name of it."""
    size_separator: Literal["x", "*"] = field(default="x", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    """Sent like `api_key`, and as secret."""
    connect_timeout_s: float = field(default=10.0, kw_only=True)
    retries: int = field(default=5, kw_only=True)
    """Further attempts after a server error or a lost connection, and of a server that refuses everything."""
    max_concurrency: int = field(default=16, kw_only=True)
    """Requests in flight at most, of all workers that share a limit; fewer while the server refuses more."""
    repeat_unanswered: bool = field(default=True, kw_only=True)
    """Whether a request whose reply was lost is sent again; the server may have done it."""
    max_response_bytes: int = field(default=256 * 2**20, kw_only=True)
    reply_media: str | None = field(default=None, kw_only=True)
    """Where the media of a reply are, as `images[].url`; None looks in the usual places."""
    allow_private_urls: bool = field(default=False, kw_only=True)
    """Whether a public server's reply may name a file on this machine or its network."""
    idempotency_key: bool = field(default=True, kw_only=True)
    """Whether an `Idempotency-Key` header, the same in every attempt, lets a gateway drop repeats."""

    def __post_init__(self) -> None:
        parts = _split(self.base_url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"openai: base_url {self.base_url!r} is no URL of a server (http://host:port/v1)")
        if parts.username or parts.password:
            raise SpecError(f"openai: base_url of {parts.hostname} holds credentials (use api_key or headers)")
        if self.dialect not in ("auto", *DIALECTS):
            hint = hint_for(self.dialect, DIALECTS, f"there are: auto, {', '.join(DIALECT_NAMES)}")
            raise SpecError(f"openai: dialect {self.dialect!r} is unknown ({hint})")
        for name in ("timeout_s", "connect_timeout_s", "max_concurrency", "max_response_bytes"):
            if not getattr(self, name) > 0:
                raise SpecError(f"openai: {name} is {getattr(self, name)}; it is above 0")

    @property
    def family(self) -> Family | None:
        """OpenAI's family of the model, whatever host serves it."""
        return openai_family(self.model_id)

    @property
    def is_official(self) -> bool:
        """Whether the host is OpenAI's own, or Azure's."""
        return is_official_url(self.base_url)

    @property
    def known_dialect(self) -> Dialect | None:
        """The dialect as far as it follows from the configuration; None where the server has to be asked."""
        return known_dialect(
            base_url=self.base_url, model=self.model_id, dialect=self.dialect, request_shape=self.request_shape
        )

    def tasks(self, dialect: Dialect | None) -> list[Task]:
        """What this configuration reaches of a server; of one that was not asked yet, what may be."""
        tasks: list[Task] = ["text_to_image", "image_to_image"]
        by_job = self.video_mode == "videos_api"
        for task, path in self.video_paths.items():
            way = by_job if dialect is None else dialect.endpoint(task, job=by_job) is not None
            if path or way:
                tasks.append(task)
        return tasks

    @property
    def video_paths(self) -> dict[Task, str | None]:
        """The user's own path of each kind of video."""
        if self.video_mode == "videos_api":
            return {"text_to_video": None, "image_to_video": None}
        return {"text_to_video": self.text_to_video_path, "image_to_video": self.image_to_video_path}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never show in a message."""
        return tuple(secret for secret in (self.api_key, *self.headers.values()) if secret)

    def url(self, path: str) -> str:
        """`path` under `base_url`; one that begins with two slashes, under the server's root."""
        base = self.base_url.rstrip("/")
        if path.startswith("//"):
            base = base.removesuffix("/v1")
        return f"{base}/{path.lstrip('/')}"


def config_from_fields(
    fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str
) -> OpenAICompatibleBackendConfig:
    """Join a job's `backend` fields with what the model's card says for this backend; the job wins.

    Raises:
        SpecError: an environment variable that holds a secret is not set.
    """
    own = dict(fields)
    headers = {name: _resolved(value, f"backend.headers.{name}") for name, value in own.pop("headers", {}).items()}
    api_key = own.pop("api_key", None)
    for name in ("price", "label"):  # the job's business, not the server's
        own.pop(name, None)
    served_model = own.pop("served_model", None) or card_facts.get("served_model") or model
    own["known_fields"] = tuple(own.get("known_fields", ()))
    return OpenAICompatibleBackendConfig(
        card_id=model,
        api_key=None if api_key is None else _resolved(api_key, "backend.api_key"),
        model_id=served_model,
        headers=headers,
        **own,
    )


def _resolved(value: str | FromEnv | Mapping[str, str], field_name: str) -> str:
    """A secret's value; a dumped spec holds it as `{"env": NAME}`."""
    if isinstance(value, str):
        return value
    return resolve_secret(value if isinstance(value, FromEnv) else FromEnv.model_validate(value), field_name)


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed when asked for
    except ValueError:
        return None
    return parts
