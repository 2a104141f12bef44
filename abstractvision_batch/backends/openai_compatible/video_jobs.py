"""OpenAI-style `/videos`: create a job, look at it until it is done, download its content.

A lost look or download is repeated; a job is never created twice because of one, unless the server has forgotten it or
failed by its own fault. A server that answers the creation with the video itself is taken at its word, and one without
the video under `/content` at what the job's record points to.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.failures import Reply, failure_of
from abstractvision_batch.backends.openai_compatible.replies import MediaItem, read_json, read_media
from abstractvision_batch.backends.openai_compatible.retries import repeat
from abstractvision_batch.backends.openai_compatible.transport import Transport
from abstractvision_batch.errors import BackendBusyError, GenerationError, InvalidOutputError
from abstractvision_batch.media.probe import sniff_mime_type

_DONE = ("completed", "succeeded", "success", "done")
_FAILED = ("failed", "error", "cancelled", "canceled", "expired", "rejected")
_KEPT = ("id", "size", "seconds", "model", "remixed_from_video_id", "usage")
_RENAMED = {"id": "job_id", "model": "reported_model"}
#: A job that the server does not know any more; jobs live in its memory.
_GONE = (404, 410)
#: What a job's error says when the server failed and not the request: after that, another attempt may succeed.
_BY_SERVER = re.compile(
    r"out of memory|outofmemory|\boom\b|\bcuda\b|\bnccl\b|\bhip\b error|internal[ _]?(server[ _]?)?error|server_error"
    r"|engine[ _]?(is )?(dead|core|error)|enginedead|worker|overloaded|unavailable|timed? ?out|timeout|connection"
    r"|preempted|shut ?down|restart|\"code\": \"?5\d\d\b",
    re.IGNORECASE,
)
_MIN_POLL_S = 0.01
_MAX_POLL_S = 60.0


async def finish_job(created: Reply, transport: Transport, config: OpenAICompatibleBackendConfig) -> list[MediaItem]:
    """The video of a job that `created` announces; its caller bounds the time.

    Raises:
        GenerationError: the job failed.
        BackendBusyError: the server stopped answering.
    """
    if sniff_mime_type(created.body) is not None:
        return read_media(created)
    job = read_json(created, secrets=config.secrets)
    if job.get("data"):
        return read_media(created, secrets=config.secrets)
    job_id = job.get("id")
    if not isinstance(job_id, str) or not job_id:
        raise InvalidOutputError(f"openai: {created.url}: the reply names no job id")
    path = f"{config.videos_path.rstrip('/')}/{quote(job_id, safe='')}"
    reply = created
    while (status := str(job.get("status", "queued")).lower()) not in _DONE:
        if status in _FAILED:
            raise _job_failure(job, status, reply, config)
        await asyncio.sleep(_poll_s(reply, config))
        try:
            reply = await repeat(lambda: transport.get(path), retries=config.retries)
        except GenerationError as error:
            if error.status not in _GONE:
                raise
            raise BackendBusyError(f"{error}: the server has forgotten the job (did it start again?)") from error
        job = read_json(reply, secrets=config.secrets)
    items = await _fetch_content(path, job, reply, transport, config)
    metadata = {_RENAMED.get(name, name): job[name] for name in _KEPT if job.get(name) is not None}
    return [MediaItem(item.source, item.data, item.url, metadata | item.metadata) for item in items]


async def _fetch_content(
    path: str, job: dict[str, Any], reply: Reply, transport: Transport, config: OpenAICompatibleBackendConfig
) -> list[MediaItem]:
    """The video under `/content`, else where the job's record says that it is."""
    try:
        content = await repeat(lambda: transport.get(f"{path}/content"), retries=config.retries)
        return read_media(content, secrets=config.secrets)
    except GenerationError as error:
        if isinstance(error, BackendBusyError) or not (job.get("url") or job.get("data")):
            raise
    return read_media(reply, secrets=config.secrets)


def _job_failure(job: dict[str, Any], status: str, reply: Reply, config: OpenAICompatibleBackendConfig) -> Exception:
    """The error of a job: the request's, or the server's own, after which another attempt may succeed."""
    error = job.get("error")
    if not error:
        return GenerationError(f"openai: {reply.url}: the job ended as {status}, without a reason")
    by_server = _BY_SERVER.search(json.dumps(error)) is not None
    return failure_of(Reply(500 if by_server else 400, reply.headers, reply.body, reply.url), secrets=config.secrets)


def _poll_s(reply: Reply, config: OpenAICompatibleBackendConfig) -> float:
    try:
        asked = float(reply.headers.get("openai-poll-after-ms", "")) / 1000
    except ValueError:
        asked = config.poll_interval_s
    return min(max(asked, _MIN_POLL_S), _MAX_POLL_S)
