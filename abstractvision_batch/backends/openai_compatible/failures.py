"""What a server's refusal means: which error of ours it becomes, and how long it asks to wait.

Servers disagree on the form of an error body (`error.message`, `error` as text, `detail`, plain text, HTML); all are
read, and quoted short, on one line, without secrets.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    DependencyError,
    GenerationError,
    PolicyError,
)

QUOTE_LENGTH = 300
#: A server that asks for more is not waited for.
MAX_RETRY_AFTER_S = 300.0

_RETRIED = frozenset({408, 409, 425, 429})
_OVERLOADED = frozenset({429, 503, 529})
_NEVER_BETTER = frozenset({501, 505, 511})
_POLICY_CODES = frozenset(
    {
        "content_policy_violation",
        "moderation_blocked",
        "content_filter",
        "content_filtered",
        "content_moderation_failed",
        "image_generation_user_error_moderation",
        "responsibleaipolicyviolation",
        "safety_violation",
    }
)
_ACCOUNT_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
)
_NO_MODEL_CODES = frozenset({"model_not_found", "model_not_available", "deploymentnotfound"})

_KEY = re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+[A-Za-z0-9._~+/\-]{6,}=*")
_BLOB = re.compile(r"[A-Za-z0-9+/]{120,}={0,2}")


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply, read to its end or to the limit."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    url: str
    """Where it came from, without query and credentials."""


def quote_body(body: bytes, secrets: Sequence[str] = ()) -> str:
    """The start of a body for a message: one line, printable, no secrets, no base64."""
    return redact(body[: 20 * QUOTE_LENGTH].decode("utf-8", "replace"), secrets)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` on one line, cut to `QUOTE_LENGTH` characters, without secrets and base64."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _BLOB.sub("…", _KEY.sub("***", text))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= QUOTE_LENGTH else text[: QUOTE_LENGTH - 1] + "…"


def read_error(body: bytes) -> tuple[str | None, frozenset[str]]:
    """An error body's message, if it has the form of one, and its codes and types in lower case."""
    try:
        payload = json.loads(body)
    except ValueError:
        return None, frozenset()
    return error_of(payload)


def error_of(payload: Any) -> tuple[str | None, frozenset[str]]:
    """The same of parsed JSON: OpenAI's `{"error": {…}}`, `{"error": text}`, FastAPI's `{"detail": …}`."""
    if not isinstance(payload, dict):
        return None, frozenset()
    found = payload.get("error") or payload.get("detail") or payload.get("message")
    if isinstance(found, str) and isinstance(payload.get("message"), str) and payload["message"] != found:
        found = f"{found}: {payload['message']}"  # sd-server: the kind, then what happened
    if not isinstance(found, dict):
        return (None if found is None else found if isinstance(found, str) else json.dumps(found)), frozenset()
    inner = found.get("innererror")
    codes = [found.get("code"), found.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    message = found.get("message")
    words = frozenset(str(code).lower() for code in codes if code)
    return (message if isinstance(message, str) else json.dumps(found)), words


def failure_of(reply: Reply, *, secrets: Sequence[str] = ()) -> AbstractVisionError:
    """The error that a reply of status 400 or above stands for."""
    message, codes = read_error(reply.body)
    said = quote_body(reply.body, secrets) if message is None else redact(message, secrets)
    what = f"openai: {reply.url}: {reply.status}" + (f": {said}" if said else "")
    if reply.headers.get("x-request-id"):
        what += f" [request {redact(reply.headers['x-request-id'], secrets)}]"
    status = reply.status
    if codes & _POLICY_CODES:
        return PolicyError(what, status=status)
    if codes & _ACCOUNT_CODES:
        return DependencyError(f"{what} (mend the account, then run again: it resumes)", status=status)
    if codes & _NO_MODEL_CODES:
        return DependencyError(f"{what} (name a model that the server has: backend.served_model)", status=status)
    if status == 401:
        return DependencyError(
            f"{what} (set the key: export OPENAI_API_KEY=… and backend.api_key: {{env: OPENAI_API_KEY}})", status=status
        )
    if status in (403, 407):
        return DependencyError(f"{what} (the key may not do this; use another)", status=status)
    retried = status in _RETRIED or (status >= 500 and status not in _NEVER_BETTER)
    wanted = reply.headers.get("x-should-retry")
    if retried or wanted == "true":
        return BackendBusyError(
            what,
            status=status,
            again=wanted != "false",
            overloaded=status in _OVERLOADED,
            retry_after_s=retry_after_s(reply.headers),
        )
    hint = " (is backend.base_url right, and the path?)" if status in (404, 405) else ""
    return GenerationError(what + hint, status=status)


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or a date); None if they say nothing sensible."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        at = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))
