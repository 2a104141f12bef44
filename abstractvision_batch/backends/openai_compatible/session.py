"""One request from call to assets, on the event loop: build, send with patience, read, fetch, check.

A refusal that looks like one of the key is this request's alone while the key works: where the server has answered
with it, or shows its catalog to it. Some servers answer 403 to a prompt that they dislike.

Not covered: many requests and the blocking interface (`backend`).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from abstractvision_batch.backends.openai_compatible.catalog import read_catalog
from abstractvision_batch.backends.openai_compatible.concurrency import AdaptiveLimit
from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.dialects import EXTENSIONS
from abstractvision_batch.backends.openai_compatible.failures import KeyRefusedError, Reply, quote_body
from abstractvision_batch.backends.openai_compatible.form import Call
from abstractvision_batch.backends.openai_compatible.identify import Identity, identify
from abstractvision_batch.backends.openai_compatible.image_calls import image_edit_call, image_generation_call
from abstractvision_batch.backends.openai_compatible.replies import MediaItem, read_media
from abstractvision_batch.backends.openai_compatible.retries import AttemptCounts, repeat, send_with_retries
from abstractvision_batch.backends.openai_compatible.settlement import Settlement, describe_unknown, settle
from abstractvision_batch.backends.openai_compatible.speech import Speech
from abstractvision_batch.backends.openai_compatible.transport import Transport
from abstractvision_batch.backends.openai_compatible.video_calls import video_call
from abstractvision_batch.backends.openai_compatible.video_jobs import finish_job
from abstractvision_batch.backends.shared_limit import Exchange
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
)
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.text.redaction import bare_url
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    ProviderModelInfo,
    VideoGenerationRequest,
)

logger = logging.getLogger(__name__)

#: This many refusals like those of a wrong key in a row, without a picture between, end the run: before the first
#: picture, and after it, when the key may have been revoked.
REFUSALS_AT_START = 3
REFUSALS_LATER = 8
#: Types that cost pixels on the way.
_LOSSY = ("image/jpeg", "image/gif")

HttpRequest = ImageGenerationRequest | ImageEditRequest | VideoGenerationRequest | ImageToVideoRequest


class Session:
    """A server's connections and how many requests it bears. For one event loop."""

    def __init__(
        self,
        config: OpenAICompatibleBackendConfig,
        *,
        exchange: Exchange | None = None,
        worker: str = "this",
        settled: Settlement | None = None,
        unasked: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = config
        self._transport = Transport(config)
        self._answered = False
        self._refusals = 0
        self._settled = settled
        self._unasked = unasked or {}
        self._asking = asyncio.Lock()
        self._guess: str | None = None
        self._doubted = False
        """Whether a connection was lost, so that another server may be there now."""
        self.limit = AdaptiveLimit(config.max_concurrency, patience=config.retries, exchange=exchange, worker=worker)

    async def generate(
        self, request: HttpRequest, *, several: bool = False, counts: AttemptCounts | None = None
    ) -> list[GeneratedAsset]:
        """The images or the video of one request; what it takes is counted in `counts`.

        Raises:
            GenerationError: this request failed.
            DependencyError: no request can succeed: key, account or model.
        """
        speech = await self._find_speech()
        self._warn_of_guess(request)
        # Decoding and encoding images would hold up every other request on the loop.
        call = await asyncio.to_thread(_build_call, request, speech, several)
        counts = AttemptCounts() if counts is None else counts
        headers = {"Idempotency-Key": uuid.uuid4().hex} if self._config.idempotency_key else {}
        try:
            items = await send_with_retries(
                lambda: self._exchange(call, headers),
                limit=self.limit,
                timeout_s=self._config.timeout_s,
                retries=self._config.retries,
                counts=counts,
                what=call.path,
                repeat_unanswered=self._config.repeat_unanswered,
            )
        except KeyRefusedError as error:
            raise await self._judged(error) from error
        self._answered, self._refusals = True, 0
        images = call.written.images
        if len(items) > images:
            logger.warning("%s: %d images in the reply where %d were asked for", call.path, len(items), images)
        metadata = self._metadata(call, counts)
        if len(items) < images:
            metadata |= {"images_asked": images, "images_received": len(items)}
        return [await asyncio.to_thread(_read_asset, item, call, metadata) for item in items[:images]]

    async def _judged(self, error: KeyRefusedError) -> AbstractVisionError:
        """Return the error for every request where the key is refused, else one for this request alone."""
        self._refusals += 1
        if error.status == 401 and not self._answered:
            return error
        if self._refusals >= (REFUSALS_LATER if self._answered else REFUSALS_AT_START):
            return error
        known = "the key works, so this is of the request"
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._transport.get(self._config.models_path)
        except KeyRefusedError:
            return error
        except (AbstractVisionError, TimeoutError):  # a server need not have a catalog
            known = "taken to be of the request; the server has no catalog to ask with the key"
        return GenerationError(f"{error} [{known}]", status=error.status)

    async def list_models(self, task: str | None) -> list[ProviderModelInfo]:
        """The provider's catalog."""
        reply = await send_with_retries(
            lambda: self._transport.get(self._config.models_path),
            limit=self.limit,
            timeout_s=self._config.timeout_s,
            retries=self._config.retries,
            counts=AttemptCounts(),
            what=self._config.models_path,
        )
        return read_catalog(reply, self._config, task=task)

    async def settle(self, known: Settlement | None) -> Settlement:
        """Find out that the server is missing, or the key wrong, before the first request; and what it is.

        Args:
            known: What an earlier worker of the run found; requests are written so, and the server has to be that.

        Raises:
            DependencyError: it cannot be reached, refuses the key, or is another than `known`.
        """
        try:
            identity = await self._look(known)
        except BackendBusyError as error:
            if not error.connected:
                raise DependencyError(f"{error} (start it, or correct backend.base_url)") from error
            identity = Identity()
        self._settled = settle(self._config, identity, known)
        return self._settled

    async def _look(self, known: Settlement | None = None, *, retries: int = 1) -> Identity:
        """What the server says of itself; `known` is what it was. A catalog is no duty."""
        reply, models = None, []
        try:
            async with asyncio.timeout(self._config.timeout_s):
                reply = await repeat(lambda: self._transport.get(self._config.models_path), retries=retries)
            models = read_catalog(reply, self._config, task=None)
        except BackendBusyError as error:
            if not error.connected:
                raise
        except (GenerationError, TimeoutError):
            pass
        if reply is not None:
            self._note_catalog(reply, models)
        if self._config.is_official:
            return Identity("openai")
        dialect = self._config.known_dialect if known is None or known.by == "default" else known.dialect
        return await identify(
            self._transport.get,
            reply,
            models,
            model_id=self._config.model_id,
            expected=None if dialect is None else dialect.name,
        )

    def _note_catalog(self, reply: Reply, models: list[ProviderModelInfo]) -> None:
        wanted = self._config.model_id
        listed = next((model for model in models if model.id == wanted), None)
        if wanted and models and listed is None:
            logger.warning("%s does not list %s: %s", reply.url, wanted, ", ".join(m.id for m in models[:20]))
        if listed is not None and listed.raw.get("shutdown_date"):
            logger.warning("%s: %s shuts down on %s", reply.url, wanted, listed.raw["shutdown_date"])

    async def _find_speech(self) -> Speech:
        """How requests are written; a server that nobody has asked yet is asked now, if the configuration needs it."""
        dialect = self._config.known_dialect
        async with self._asking:
            if self._settled is not None:
                dialect = self._settled.dialect
            elif dialect is None:
                try:
                    identity = await self._look(retries=self._config.retries)
                except DependencyError:  # what the catalog refuses, a request may do
                    identity = Identity()
                self._settled = settle(self._config, identity, None)
                self._guess = describe_unknown(self._settled, self._config)
                dialect = self._settled.dialect
        return Speech(self._config, dialect, self._unasked)

    def _warn_of_guess(self, request: HttpRequest) -> None:
        """Say once that the server is not known, where a request has what it might ignore."""
        if self._guess is not None and any(getattr(request, name, None) is not None for name in EXTENSIONS):
            logger.warning("%s", self._guess)
            self._guess = None

    async def _require_same_server(self) -> None:
        """Look again after a connection was lost.

        Raises:
            DependencyError: another server is there.
        """
        async with self._asking:
            if not self._doubted or self._settled is None:
                return
            settle(self._config, await self._look(self._settled), self._settled)
            self._doubted = False

    async def close(self) -> None:
        """Close every connection."""
        self.limit.close()
        await self._transport.close()

    async def _exchange(self, call: Call, headers: dict[str, str]) -> list[MediaItem]:
        if self._doubted:
            await self._require_same_server()
        try:
            if call.as_form:
                reply = await self._transport.post(call.path, parts=call.parts(), headers=headers)
            else:
                reply = await self._transport.post(call.path, json=dict(call.fields), headers=headers)
        except BackendBusyError as error:
            self._doubted |= not (error.connected and error.answered)
            raise
        if call.is_job:
            items = await finish_job(reply, self._transport, self._config)
        else:
            items = await asyncio.to_thread(
                read_media, reply, secrets=self._config.secrets, path=self._config.reply_media
            )
        return [await self._fetched(item) for item in items]

    async def _fetched(self, item: MediaItem) -> MediaItem:
        url = item.url
        if url is None:
            return item

        async def fetch_media() -> Reply:
            reply = await self._transport.fetch(url)
            if sniff_mime_type(reply.body) is None:  # a page that says "expired" with a status of success
                said = quote_body(reply.body[:200], self._config.secrets)
                raise BackendBusyError(f"openai: {reply.url}: {len(reply.body)} bytes that are no media: {said}")
            return reply

        reply = await repeat(fetch_media, retries=self._config.retries)
        parts = urlsplit(bare_url(url))  # the query may be a signed link's secret, under any name
        shown = urlunsplit((*parts[:3], "", ""))
        return MediaItem(item.source, reply.body, metadata=item.metadata | {"url": shown})

    def _metadata(self, call: Call, counts: AttemptCounts) -> dict[str, Any]:
        seed = call.written.seed
        metadata: dict[str, Any] = {
            "model": self._config.model_id,
            "seed": seed,
            "attempts": counts.attempts,
            "refused": counts.refused,
            "ambiguous_retries": counts.ambiguous,
            "reproducibility": "unseeded" if seed is None else "seeded-remote",
        }
        if call.written.not_sent:
            metadata["not_sent"] = list(call.written.not_sent)
        return metadata


def _build_call(request: HttpRequest, speech: Speech, several: bool) -> Call:
    match request:
        case ImageGenerationRequest():
            call = image_generation_call(request, speech, several=several)
        case ImageEditRequest():
            call = image_edit_call(request, speech, several=several)
        case VideoGenerationRequest() | ImageToVideoRequest():
            call = video_call(request, speech)
    return call


def _read_asset(item: MediaItem, call: Call, metadata: dict[str, Any]) -> GeneratedAsset:
    """The asset, by its content; a size or a type that was not asked for is noted as `transport`.

    Raises:
        InvalidOutputError: the bytes are no readable image, or no video where one was asked for.
    """
    kind = "video" if call.task.endswith("video") else "image"
    mime_type = sniff_mime_type(item.data)
    if mime_type is None or not mime_type.startswith(f"{kind}/"):
        known = mime_type or f"{len(item.data)} bytes of no known type"
        raise InvalidOutputError(f"openai: {call.path}: the reply holds {known} where {kind} was asked for")
    if kind == "image":
        try:
            size = decode_image(item.data, name=f"openai: {call.path}: the reply's image").size
        except GenerationError as exc:
            raise InvalidOutputError(str(exc)) from exc
    else:
        info = probe(item.data, mime_type)
        size = (info.width, info.height)
    noted = _note_transport(call, mime_type, size)
    return GeneratedAsset(kind, item.data, mime_type, {"source": item.source, **item.metadata, **metadata, **noted})


def _note_transport(call: Call, mime_type: str, size: tuple[int, int]) -> dict[str, Any]:
    """What of a reply is not as asked for, or cost pixels on its way, each with what was asked for."""
    found: dict[str, Any] = {}
    asked = call.written
    if asked.size is not None and asked.size != size:
        found["size"] = {"asked": "{}x{}".format(*asked.size), "received": "{}x{}".format(*size)}
    if asked.mime_type is not None and asked.mime_type != mime_type:
        found["type"] = {"asked": asked.mime_type, "received": mime_type}
    elif asked.mime_type is None and mime_type in _LOSSY:
        found["type"] = {"asked": None, "received": mime_type}
    return {"transport": found} if found else {}
