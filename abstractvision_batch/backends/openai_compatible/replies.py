"""Read what came back, by content: JSON with base64 or URLs, or the media itself; whatever the headers say.

Servers hold their pictures in several places: OpenAI's `data[].b64_json`, `images[]`, `output[]`, `artifacts[].base64`.
Those are found without asking; any other is named by `backend.reply_media`, as `result.sample` or `pictures[].link`.

Not covered: fetching a URL, polling a job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from abstractvision_batch.backends.openai_compatible.failures import (
    Reply,
    error_of,
    failure_of,
    quote_body,
    without_keys,
)
from abstractvision_batch.backends.openai_compatible.input_images import decode_base64
from abstractvision_batch.errors import GenerationError, InvalidOutputError
from abstractvision_batch.media.probe import sniff_mime_type

#: Of a reply's own words, what an asset's metadata keeps.
_KEPT = ("usage", "created", "size", "quality", "background", "output_format", "timings", "system_fingerprint")
_KEPT_OF_ITEM = ("revised_prompt", "seed", "finish_reason")

#: Where the pictures of a reply are, tried in this order; the reply itself last.
_PLACES = ("data", "images", "output", "artifacts", "image", "video", "videos", "result", "results")
#: What an entry calls its picture.
_NAMES = ("b64_json", "url", "b64", "base64", "image_url", "image", "video", "sample", "uri")
#: One step of a path: a key, or all or one of a list.
_STEP = re.compile(r"([^.\[\]]+)|\[(\d*)\]")


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One image or video of a reply: its bytes, or where they are."""

    source: str
    """`b64_json`, `url` or `bytes`."""
    data: bytes = b""
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_media(reply: Reply, *, secrets: tuple[str, ...] = (), path: str | None = None) -> list[MediaItem]:
    """Read every image or video that a reply holds or points to, in order; at least one.

    Args:
        reply: The server's.
        secrets: Texts that are masked in what is kept of the reply's own words.
        path: Where the media are (`reply_media`); None looks in the usual places.

    Raises:
        InvalidOutputError: there is none.
        AbstractVisionError: the reply is an error in spite of its status.
    """
    mime_type = sniff_mime_type(reply.body)
    if mime_type is not None:
        return [MediaItem("bytes", reply.body)]
    payload = read_json(reply, secrets=secrets)
    whole = {name: payload[name] for name in _KEPT if payload.get(name) is not None}
    if payload.get("model") is not None:
        whole["reported_model"] = payload["model"]  # next to `model`, which is what was asked for
    whole = without_keys(whole, secrets)
    for name, entries in _places(payload, path):
        items = [_read_item(name, entry, reply, whole, secrets) for entry in entries]
        if found := [item for item in items if item is not None]:
            return found
    if error_of(payload)[0] is not None:
        raise failure_of(reply, secrets=secrets)
    where = "neither b64_json nor url" if path is None else f"nothing at {path}"
    raise InvalidOutputError(
        f"openai: {reply.url}: the reply has {where}: {quote_body(reply.body, secrets)} "
        "(backend.reply_media says where it is, as images[].url)"
    )


def parse_path(path: str) -> list[str | int | None]:
    """Parse a place in a reply: keys, and None for every entry of a list.

    Raises:
        ValueError: it is not one.
    """
    steps: list[str | int | None] = []
    at = 0
    while at < len(path):
        at += path[at] == "." and at > 0
        step = _STEP.match(path, at)
        if step is None:
            raise ValueError(f"{path!r} is not a place in a reply (write keys and [], as images[].url)")
        key, number = step.groups()
        steps.append(key if key is not None else int(number) if number else None)
        at = step.end()
    if not steps:
        raise ValueError("it is empty (write keys and [], as images[].url)")
    return steps


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


def _places(payload: dict[str, Any], path: str | None) -> Iterator[tuple[str, list[Any]]]:
    """Yield the entries at the named place, or at each usual place that is there, with the last key on the way."""
    if path is not None:
        found: list[Any] = [payload]
        last = ""
        for step in parse_path(path):
            found = [deeper for one in found for deeper in _stepped(one, step)]
            last = step if isinstance(step, str) else last
        yield last, found
        return
    for name in _PLACES:
        entries = payload.get(name)
        if entries:
            yield name, entries if isinstance(entries, list) else [entries]
    yield "", [payload]


def _stepped(value: Any, step: str | int | None) -> list[Any]:
    if isinstance(step, str):
        return [value[step]] if isinstance(value, dict) and step in value else []
    if not isinstance(value, list):
        return []
    return value if step is None else value[step : step + 1]


def _read_item(
    place: str, entry: Any, reply: Reply, whole: dict[str, Any], secrets: tuple[str, ...]
) -> MediaItem | None:
    """Read one entry: a mapping that has its picture under a known name, or the text itself."""
    if isinstance(entry, str):
        return _read_text(place, entry, reply, whole)
    if not isinstance(entry, dict):
        return None
    kept = {name: entry[name] for name in _KEPT_OF_ITEM if entry.get(name) is not None}
    metadata = whole | without_keys(kept, secrets)
    for name in _NAMES:
        held = entry.get(name)
        held = held.get("url") if isinstance(held, dict) else held
        if isinstance(held, str) and (item := _read_text(name, held, reply, metadata)) is not None:
            return item
    return None


def _read_text(name: str, text: str, reply: Reply, metadata: dict[str, Any]) -> MediaItem | None:
    """Read a text that is a URL or base64: by its name where that says which, else by its start."""
    text = text.strip()
    if not text:
        return None
    if text[:5].lower() == "data:":
        return MediaItem("url", _decode(text, reply), metadata=metadata)
    if name == "b64_json":
        return MediaItem("b64_json", _decode(text, reply), metadata=metadata)
    if "://" not in text[:12] and name not in ("url", "image_url", "uri"):
        # A JPEG in base64 starts with a slash, as a path does.
        if (data := _media_of(text)) is not None:
            return MediaItem("b64_json", data, metadata=metadata)
        if not text.startswith(("/", "./")):
            return None
    try:
        return MediaItem("url", url=urljoin(reply.url, text), metadata=metadata)
    except ValueError as exc:
        raise InvalidOutputError(f"openai: {reply.url}: the reply points to {text[:100]!r}, no URL") from exc


def _media_of(text: str) -> bytes | None:
    """Decode base64 of an image or a video; None for any other text."""
    try:
        data = decode_base64(text, name="")
    except GenerationError:
        return None
    return data if sniff_mime_type(data) is not None else None


def _decode(encoded: str, reply: Reply) -> bytes:
    try:
        return decode_base64(encoded, name=f"openai: {reply.url}: b64_json")
    except GenerationError as exc:
        raise InvalidOutputError(str(exc)) from exc
