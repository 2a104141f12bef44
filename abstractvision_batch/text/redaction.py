"""What must not be shown or kept: keys by form and by name, what gives access in URLs, what steers a terminal.

A URL is used whole and kept without them: without user and password, without signatures in its query. Not covered:
which fields of a spec may hold which (`job.secrets`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

#: What keys look like, by who gives them out. Tight enough that no prompt, model name or hash is one.
_KEYS = {
    "OpenAI": r"sk-(?:proj|svcacct|admin|ant|or|None)-[A-Za-z0-9_-]{8,}|sk-[A-Za-z0-9]{16,}",
    "Stripe": r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",
    "Hugging Face": r"(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "AWS": r"(?:AKIA|ASIA|AROA|AIDA|AGPA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "Google": r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,}|GOCSPX-[A-Za-z0-9_-]{20,}",
    "GitHub": r"gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}",
    "GitLab": r"gl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{16,}",
    "Slack": r"xox[abeoprs]-[A-Za-z0-9-]{8,}|xapp-[0-9]-[A-Za-z0-9-]{8,}",
    "Replicate": r"r8_[A-Za-z0-9]{20,}",
    "Groq": r"gsk_[A-Za-z0-9]{20,}",
    "NVIDIA": r"nvapi-[A-Za-z0-9_-]{20,}",
    "xAI": r"xai-[A-Za-z0-9]{20,}",
    "fal": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}:[0-9a-f]{16,}",
    "SendGrid": r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "npm": r"npm_[A-Za-z0-9]{30,}",
    "PyPI": r"pypi-AgE[A-Za-z0-9_-]{20,}",
    "DigitalOcean": r"do[opr]_v1_[a-f0-9]{40,}",
    "Azure": r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{20,}={0,2}",
    "a JSON web token": r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
}
_KEY = re.compile(
    r"(?<![A-Za-z0-9_])(?:" + "|".join(f"({form})" for form in _KEYS.values()) + r")|(-----BEGIN [A-Z ]*PRIVATE KEY)"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL)
_AUTHORIZATION = re.compile(r"\b(?:bearer|authorization:\s*\w+)\s+(?=\S*\d)[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE)

#: Names of what holds a secret, in lower case and with underscores.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key(?:_id)?|account_?key|shared_?key|private_?key|secret_?key|subscription_?key|"
    r"secret|password|passwd|passphrase|pwd|authorization|auth|credentials?|cookie|signature|bearer|"
    r"conn(?:ection)?_?str(?:ing)?|sas|(?P<of>[a-z0-9]*?)_?token)$"
)
#: Words before `token` where it is a piece of text.
_TEXT_TOKENS = {
    "bos", "class", "cls", "end", "eos", "image", "init", "initializer", "instance", "mask", "new", "pad",
    "placeholder", "sep", "special", "start", "style", "trigger", "unk",
}  # fmt: skip

#: Parameters of a query that name what is asked for; any other may be a signature.
_HARMLESS = {
    "alt", "dl", "download", "ext", "file", "filename", "fit", "fm", "format", "generation", "h", "height", "id",
    "index", "lang", "page", "path", "q", "quality", "raw", "ref", "resolution", "rev", "revision", "row", "seed",
    "size", "split", "subset", "v", "version", "versionid", "w", "width",
}  # fmt: skip
_WEB = re.compile(r"(?:[a-z0-9]+\+)?https?://", re.IGNORECASE)  # git+https too
_USER = re.compile(
    # A password may hold a slash that should have been escaped.
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s]*|[^/?#\s@:\[]*:(?!\d{1,5}(?:[/?#]|$))\S*)@"
)
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>()\[\]{}|\\^`]+")
#: What else comes with a signature: of Azure, CloudFront and others.
_OF_SIGNATURES = {
    "e", "exp", "expires", "hash", "hdnts", "rscc", "rscd", "rsce", "rscl", "rsct", "se", "ses", "si", "sip",
    "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "srt", "ss", "st", "sv", "ts", "timestamp",
}  # fmt: skip
_RANDOM = re.compile(r"(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/=_.~%-]{20,}")
_SIGNED = re.compile(
    r"[?&](?:x-(?:amz|goog|oss|cos|ms)-[a-z-]*|awsaccesskeyid|googleaccessid|key-pair-id|sig|signature|sign|hmac|policy|"
    r"[a-z_-]*(?:token|secret|password|apikey|api_key|api-key|auth)|key)=",
    re.IGNORECASE,
)


#: Controls but for line breaks and tabs, marks that turn the direction of text, invisible tags, halves of characters.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Return a text in which nothing steers a terminal or turns the reading direction; its lines stay lines."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def find_key(text: str) -> str | None:
    """Return who gives out keys of the form of one in the text; None where there is none."""
    match = _KEY.search(text)
    if match is None:
        return None
    kinds = [*_KEYS, "a private key"]
    return next(kind for kind, group in zip(kinds, match.groups(), strict=True) if group is not None)


def names_secret(name: str) -> bool:
    """Tell whether an option, header or variable of this name holds a secret."""
    match = _SECRET_NAME.search(re.sub(r"[^a-z0-9]+", "_", _snake(name)).strip("_"))
    return match is not None and match["of"] not in _TEXT_TOKENS


def mask_keys(text: str) -> str:
    """Return the text with `***` for every key in it."""
    return _AUTHORIZATION.sub("***", _KEY.sub("***", _PRIVATE_KEY.sub("***", text)))


def bare_url(url: str) -> str:
    """Return a URL without user, password and signature; parts of it that give no access stay.

    Each URL of a chain (``zip://a.png::https://…``) is made bare. The user of a URL that is no web address stays where
    it has no password: a container of Azure is written so.
    """
    if "://" not in url:
        return url
    return "::".join(_bare(part) for part in url.split("::"))


def gives_access(url: str) -> bool:
    """Tell whether a text is a URL with a user's password or a signature in it."""
    return "://" in url and " " not in url and bare_url(url) != url and _is_credential(url)


def kept_url(url: str) -> str:
    """Return a URL as a record may keep it: bare where it gives access, else as it is."""
    return bare_url(url) if gives_access(url) else url


def lasting_url(url: str) -> str:
    """Return the URL by which a plan names an input: as `kept_url`, with a digest of unknown parameters that were cut.

    So two files that differ in such a parameter have two names, and a file keeps its name when it is signed again.
    """
    kept = kept_url(url)
    if kept == url:
        return url
    cut = sorted(
        (name, value) for name, value in _parameters(url) if not _is_signature(name) and not _is_harmless(name)
    )
    return f"{kept}#{hashlib.sha256(repr(cut).encode()).hexdigest()[:12]}" if cut else kept


def redact(text: str) -> str:
    """Return a text for people, with its keys masked and its URLs made bare."""
    text = mask_keys(text)
    return _URL_IN_TEXT.sub(_bare_in_text, text) if "://" in text else text


def without_secrets(value: Any) -> Any:
    """Return the value, however deep, without what a name calls a secret, what looks like a key, and with bare URLs."""
    if isinstance(value, Mapping):
        return {
            key: "<secret>" if names_secret(str(key)) and not _is_reference(item) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def with_kept_urls(value: Any) -> Any:
    """Return the value, however deep, with every text that is one URL as a record may keep it."""
    if isinstance(value, Mapping):
        return {key: with_kept_urls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_kept_urls(item) for item in value]
    return kept_url(value) if isinstance(value, str) else value


def _bare_in_text(match: re.Match[str]) -> str:
    """The bare URL; punctuation after it is the sentence's."""
    url = match[0].rstrip(".,;:!?")
    return bare_url(url) + match[0][len(url) :]


def _is_reference(value: Any) -> bool:
    """Tell a name of a variable, and what is no text, from a secret."""
    return (
        value is None or isinstance(value, bool | int | float) or (isinstance(value, Mapping) and set(value) == {"env"})
    )


def _snake(name: str) -> str:
    """`xAuthToken` and `X-Auth-Token` as `x_auth_token`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _bare(url: str) -> str:
    web = _WEB.match(url)
    user = _USER.match(url)
    if user is not None and (web or ":" in user["user"]):
        url = user["scheme"] + url[user.end() :]
    if web is None:
        return url[: url.index("?")] if _SIGNED.search(url) else url
    place, _, fragment = url.partition("#")
    place, _, query = place.partition("?")
    if "=" in fragment or "&" in fragment:  # as of a sign-in
        fragment = ""
    kept = [part for part in query.split("&") if _is_harmless(unquote(part.partition("=")[0]))]
    kept = [part for part in kept if len(part) < 200 and find_key(unquote(part)) is None]
    return place + (f"?{'&'.join(kept)}" if kept else "") + (f"#{fragment}" if fragment else "")


def _parameters(url: str) -> list[tuple[str, str]]:
    return parse_qsl(url.partition("#")[0].partition("?")[2], keep_blank_values=True)


def _is_harmless(name: str) -> bool:
    return name.lower() in _HARMLESS


def _is_signature(name: str) -> bool:
    return _SIGNED.search(f"?{name}=") is not None or names_secret(name) or name.lower() in _OF_SIGNATURES


def _is_credential(url: str) -> bool:
    for part in url.split("::"):
        user = _USER.match(part)
        if user is not None and (_WEB.match(part) or ":" in user["user"]):
            return True
        for name, value in (*_parameters(part), *parse_qsl(part.partition("#")[2])):
            if _is_signature(name) or (not _is_harmless(name) and _RANDOM.fullmatch(value)):
                return True
    return find_key(url) is not None
