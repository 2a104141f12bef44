"""What came back, by content: JSON with base64 or URLs, or the media itself; whatever the headers say.

Not covered: fetching a URL, polling a job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from abstractvision_batch.backends.openai_compatible.failures import Reply, error_of, failure_of, quote_body
from abstractvision_batch.backends.openai_compatible.input_images import decode_base64
from abstractvision_batch.errors import GenerationError, InvalidOutputError
from abstractvision_batch.media.probe import sniff_mime_type

#: Of a reply's own words, what an asset's metadata keeps.
_KEPT = ("usage", "created", "size", "quality", "background", "output_format", "timings", "system_fingerprint")
_KEPT_OF_ITEM = ("revised_prompt", "seed", "finish_reason")


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One image or video of a reply: its bytes, or where they are."""

    source: str
    """`b64_json`, `url` or `bytes`."""
    data: bytes = b""
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_media(reply: Reply, *, secrets: tuple[str, ...] = ()) -> list[MediaItem]:
    """Every image or video that a reply holds or points to, in order; at least one.

    Raises:
        InvalidOutputError: there is none.
        AbstractVisionError: the reply is an error in spite of its status.
    """
    mime_type = sniff_mime_type(reply.body)
    if mime_type is not None:
        return [MediaItem("bytes", reply.body)]
    payload = read_json(reply, secrets=secrets)
    entries = payload.get("data") or [payload]
    whole = {name: payload[name] for name in _KEPT if payload.get(name) is not None}
    if payload.get("model") is not None:
        whole["reported_model"] = payload["model"]  # beside `model`, which is what was asked for
    items = [_read_item(entry, reply, whole) for entry in entries] if isinstance(entries, list) else []
    found = [item for item in items if item is not None]
    if not found:
        if error_of(payload)[0] is not None:
            raise failure_of(Reply(400, reply.headers, reply.body, reply.url), secrets=secrets)
        raise InvalidOutputError(
            f"openai: {reply.url}: the reply has neither b64_json nor url: {quote_body(reply.body, secrets)}"
        )
    return found


def read_json(reply: Reply, *, secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    """A reply's JSON object.

    Raises:
        InvalidOutputError: it is something else, such as a web page or half a reply.
    """
    try:
        payload = json.loads(reply.body)
    except (ValueError, RecursionError) as exc:
        kind = "a web page" if reply.body.lstrip()[:1] == b"<" else f"{len(reply.body)} bytes that are not JSON"
        raise InvalidOutputError(
            f"openai: {reply.url}: the reply is {kind}: {quote_body(reply.body[:200], secrets)} "
            "(is this an OpenAI-style server? backend.base_url)"
        ) from exc
    if not isinstance(payload, dict):
        raise InvalidOutputError(f"openai: {reply.url}: the reply is no object: {quote_body(reply.body, secrets)}")
    return payload


def _read_item(entry: Any, reply: Reply, whole: dict[str, Any]) -> MediaItem | None:
    if not isinstance(entry, dict):
        return None
    metadata = whole | {name: entry[name] for name in _KEPT_OF_ITEM if entry.get(name) is not None}
    encoded, url = entry.get("b64_json"), entry.get("url")
    if isinstance(encoded, str) and encoded.strip():
        return MediaItem("b64_json", _decode(encoded, reply), metadata=metadata)
    if isinstance(url, str) and url.strip():
        if url[:5].lower() == "data:":
            return MediaItem("url", _decode(url, reply), metadata=metadata)
        try:
            return MediaItem("url", url=urljoin(reply.url, url.strip()), metadata=metadata)
        except ValueError as exc:
            raise InvalidOutputError(f"openai: {reply.url}: the reply points to {url[:100]!r}, no URL") from exc
    return None


def _decode(encoded: str, reply: Reply) -> bytes:
    try:
        return decode_base64(encoded, name=f"openai: {reply.url}: b64_json")
    except GenerationError as exc:
        raise InvalidOutputError(str(exc)) from exc
