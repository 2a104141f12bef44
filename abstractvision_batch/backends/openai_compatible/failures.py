"""Read a server's refusal: which error of ours it becomes, and how long it asks to wait.

Servers disagree on the form of an error body (`error.message`, `error` as text, `detail`, plain text, HTML) and on
where the reason stands: in a code, in an inner error, in a filter's verdict, or in the sentence alone. All are read,
and quoted short, on one line, without secrets. Statuses are no better: a refused prompt comes as 400, 403, 422 or 451,
an empty account as 402, 403 or 429, an overload inside a 200.

Not covered: whether a refused key means the run or one request, which takes more than one reply (`session`).
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
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
from abstractvision_batch.text.redaction import mask_keys

QUOTE_LENGTH = 300
#: A server that asks for more is not waited for.
MAX_RETRY_AFTER_S = 300.0

_RETRIED = frozenset({408, 409, 425, 429})
_OVERLOADED = frozenset({429, 503, 529})
_NEVER_BETTER = frozenset({501, 505, 511})
#: Statuses that a server may give to a prompt that it refuses.
_POLICY_STATUSES = frozenset({400, 403, 406, 409, 422, 451})
#: Codes are compared in lower case and without punctuation: `contentFilter` and `content_filter` are one.
_POLICY_CODES = re.compile(
    r"content(policy|filter|moderation)|moderation|responsibleai|safety(violation|block|error|system)|^safety$|nsfw"
    r"|policyviolation|prohibitedcontent|inputflagged|promptflagged|^flagged|promptblocked|^blocked|unsafe|sensitivecontent"
)
_ACCOUNT_CODES = re.compile(
    r"insufficient(quota|credit|balance|fund)|billing|accountdeactivated|accountsuspended|accountdisabled"
    r"|paymentrequired|outofcredits|creditbalance|balancetoolow|arrearage"
)
_NO_MODEL_CODES = re.compile(r"modelnotfound|modelnotavailable|deploymentnotfound|nosuchmodel|unknownmodel")
#: Statuses of the codes that come inside a 200, or in a job.
_STATUS_OF_CODE = (
    (re.compile(r"ratelimit|toomanyrequests|resourceexhausted"), 429),
    (re.compile(r"overload|unavailable|capacity|queuefull|busy"), 503),
    (re.compile(r"timeout|deadlineexceeded"), 504),
    (re.compile(r"internal|servererror|outofmemory|upstream|badgateway"), 500),
    (re.compile(r"unauthorized|invalidapikey|unauthenticated"), 401),
)
#: What a sentence says where no code does.
_POLICY_WORDS = re.compile(
    r"content (policy|policies|filter|moderation|management policy)|safety (system|filter|checker|policy|guideline)"
    r"|responsible ai|usage polic|moderat(ed|ion)|nsfw|flagged|inappropriate|prohibited content|sensitive content"
    r"|unsafe content|disallowed content|violates? (our|the) |against (our|the) polic|as a result of our safety",
    re.IGNORECASE,
)
_ACCOUNT_WORDS = re.compile(
    r"insufficient (credit|balance|fund|quota)|out of credits?|no credits? (left|remaining)|credit balance is too low"
    r"|exceeded your current quota|billing hard limit|payment (is )?required|(usage|spend(ing)?) limits?|quota exceeded"
    r"|account (is |has been )?(suspended|deactivated)",
    re.IGNORECASE,
)
_BUSY_WORDS = re.compile(
    r"overloaded|rate.?limit|too many requests|try again (later|in)|temporarily unavailable|out of memory"
    r"|server is busy|at capacity|internal (server )?error|timed out",
    re.IGNORECASE,
)
#: A sentence about the account or the key is not about the prompt, whatever else it says.
_OF_THE_CALLER = re.compile(r"\b(account|organi[sz]ation|api key|billing|permission|subscription)\b", re.IGNORECASE)

_KEY = re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+[A-Za-z0-9._~+/\-]{6,}=*")
_BLOB = re.compile(r"[A-Za-z0-9+/]{120,}={0,2}")


class KeyRefusedError(DependencyError):
    """The server answered as it does to a wrong key: 401, 403 or 407, without another reason."""


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


def without_keys(value: Any, secrets: Sequence[str] = ()) -> Any:
    """Return JSON values with every key masked that a text in them repeats, names included."""
    if isinstance(value, str):
        for secret in secrets:
            for form in _forms(secret):
                value = value.replace(form, "***")
        return _KEY.sub("***", mask_keys(value))
    if isinstance(value, Mapping):
        return {without_keys(str(name), secrets): without_keys(one, secrets) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_keys(one, secrets) for one in value]
    return value


def _forms(secret: str) -> Iterator[str]:
    """Yield the texts in which a server may repeat a secret, with the word that it was sent with or without."""
    yield secret
    for sent in (f"Bearer {secret}", secret):
        data = sent.encode()
        for encoded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
            yield encoded.decode().rstrip("=")
        yield data.hex()


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` on one line, cut to `QUOTE_LENGTH` characters, without secrets and base64."""
    text = _BLOB.sub("…", without_keys(text, secrets))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= QUOTE_LENGTH else text[: QUOTE_LENGTH - 1] + "…"


def read_error(body: bytes) -> tuple[str | None, frozenset[str]]:
    """An error body's message, if it has the form of one, and its codes and types: lower case, letters and digits."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None, frozenset()
    return error_of(payload)


def error_of(payload: Any) -> tuple[str | None, frozenset[str]]:
    """The same of parsed JSON: OpenAI's `{"error": {…}}`, `{"error": text}`, FastAPI's `{"detail": …}`."""
    if not isinstance(payload, dict):
        return None, frozenset()
    found = payload.get("error") or payload.get("detail") or payload.get("message") or payload.get("msg")
    if isinstance(errors := payload.get("errors"), list) and errors and not found:
        found = errors[0]
    if isinstance(found, str) and isinstance(payload.get("message"), str) and payload["message"] != found:
        found = f"{found}: {payload['message']}"  # sd-server: the kind, then what happened
    if not isinstance(found, dict):
        return (None if found is None else found if isinstance(found, str) else json.dumps(found)), frozenset(
            _plain(code) for code in (payload.get("code"), payload.get("type")) if isinstance(code, str) and code
        )
    message = found.get("message")
    words = frozenset(_plain(code) for code in _codes_in(found))
    return (message if isinstance(message, str) else json.dumps(found)), words


def failure_of(reply: Reply, *, secrets: Sequence[str] = ()) -> AbstractVisionError:
    """The error that a reply of status 300 or above stands for, or one below that holds an error.

    Returns:
        PolicyError, BackendBusyError or GenerationError for this request; a DependencyError where no request can
        succeed, which is a KeyRefusedError where the server may only dislike this one.
    """
    message, codes = read_error(reply.body)
    said = quote_body(reply.body, secrets) if message is None else redact(message, secrets)
    status = reply.status if reply.status >= 300 else _inner_status(message, codes)
    what = f"openai: {reply.url}: {status}" + (f": {said}" if said else "")
    if reply.headers.get("x-request-id"):
        what += f" [request {redact(reply.headers['x-request-id'], secrets)}]"
    sentence = message or reply.body[: 20 * QUOTE_LENGTH].decode("utf-8", "replace")
    if _is_account(status, codes, sentence):
        return DependencyError(f"{what} (fix the account, then run again: it resumes)", status=status)
    if _is_policy(status, codes, sentence, reply.body):
        return PolicyError(what, status=status)
    if _any(_NO_MODEL_CODES, codes):
        return DependencyError(f"{what} (name a model that the server has: backend.served_model)", status=status)
    if status == 401:
        return KeyRefusedError(
            f"{what} (set the key: export OPENAI_API_KEY=… and backend.api_key: {{env: OPENAI_API_KEY}})", status=status
        )
    if status in (403, 407):
        return KeyRefusedError(f"{what} (the key may not do this; use another)", status=status)
    retried = status in _RETRIED or (status >= 500 and status not in _NEVER_BETTER)
    wanted = reply.headers.get("x-should-retry")
    if retried or wanted == "true":
        return BackendBusyError(
            what,
            status=status,
            repeatable=wanted != "false",
            overloaded=status in _OVERLOADED,
            retry_after_s=retry_after_s(reply.headers),
        )
    hint = " (is backend.base_url right, and the path?)" if status in (404, 405) else ""
    return GenerationError(what + hint, status=status)


def _plain(code: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(code).lower())


def _any(pattern: re.Pattern[str], codes: frozenset[str]) -> bool:
    return any(pattern.search(code) for code in codes)


def _codes_in(error: Any, depth: int = 0) -> Iterator[str]:
    """Every `code`, `type`, `reason` and `status` of an error, its inner errors and its details."""
    if depth > 4:
        return
    if isinstance(error, list):
        for one in error[:20]:
            yield from _codes_in(one, depth + 1)
    if not isinstance(error, dict):
        return
    for name, value in list(error.items())[:50]:
        if _plain(name) in ("code", "type", "reason", "reasons", "status", "errorcode", "errortype"):
            yield from (
                str(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | int)
            )
        yield from _codes_in(value, depth + 1)


def _filtered(payload: Any, depth: int = 0) -> bool:
    """Whether a filter's verdict is among what a reply says, as Azure's `{"violence": {"filtered": true}}`."""
    if depth > 6:
        return False
    if isinstance(payload, list):
        return any(_filtered(one, depth + 1) for one in payload[:20])
    if not isinstance(payload, dict):
        return False
    verdicts = ("filtered", "flagged", "blocked", "has_nsfw_concept", "is_nsfw")
    if any(payload.get(name) is True for name in verdicts) or payload.get("flagged_input"):
        return True
    return any(_filtered(one, depth + 1) for one in list(payload.values())[:50])


def _is_policy(status: int, codes: frozenset[str], sentence: str, body: bytes) -> bool:
    """Whether the server refuses what was asked for, not who asks."""
    if _any(_POLICY_CODES, codes):
        return True
    if status not in _POLICY_STATUSES:
        return False
    try:
        verdict = _filtered(json.loads(body))
    except (ValueError, RecursionError):
        verdict = False
    return verdict or status == 451 or bool(_POLICY_WORDS.search(sentence) and not _OF_THE_CALLER.search(sentence))


def _is_account(status: int, codes: frozenset[str], sentence: str) -> bool:
    if status == 402 or _any(_ACCOUNT_CODES, codes):
        return True
    return status in (400, 403, 429) and bool(_ACCOUNT_WORDS.search(sentence))


def _inner_status(message: str | None, codes: frozenset[str]) -> int:
    """The status that an error inside a 200 would have had: by its number, its code, its words; else 400."""
    numbers = [int(code) for code in codes if code.isdigit() and 400 <= int(code) <= 599]
    if numbers:
        return max(numbers)
    for pattern, status in _STATUS_OF_CODE:
        if _any(pattern, codes):
            return status
    return 503 if _BUSY_WORDS.search(message or "") else 400


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
