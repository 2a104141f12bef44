"""HTTP: one pooled client, sizes bounded while reading, redirects that never carry credentials elsewhere.

A public server's reply may name a file anywhere, but not on this machine or its network: `addresses` decides, before a
connection is opened and again with the address that it was opened to.

The only file that knows httpx, whose errors become ours here. Deadlines are the caller's (`retries`); httpx's own
timeouts only tell a dead connection from a slow answer.
"""

from __future__ import annotations

import os
import platform
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from abstractvision_batch.backends.openai_compatible.addresses import is_private_address, resolve
from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.failures import Reply, failure_of, redact
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
    PolicyError,
)
from abstractvision_batch.text.redaction import bare_url
from abstractvision_batch.version import __version__

HTTP_VERSION = httpx.__version__
#: Of an error's body; the rest is not read.
MAX_ERROR_BYTES = 64 * 1024
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Transport:
    """Requests to one server, and downloads from wherever its replies point. For one event loop."""

    def __init__(self, config: OpenAICompatibleBackendConfig) -> None:
        self._config = config
        self._public: bool | None = None
        self._credentials = dict(config.headers)
        if config.api_key:
            self._credentials.setdefault("Authorization", f"Bearer {config.api_key}")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(config.timeout_s, connect=config.connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=config.max_concurrency),
            follow_redirects=False,
            # HTTP_PROXY and the like are honoured, but no proxy reaches this machine's own servers.
            mounts={f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")},
            headers={
                "User-Agent": f"abstractvision_batch/{__version__} python/{platform.python_version()}",
                "Accept-Encoding": "identity",  # media does not compress, and a small reply cannot become a large one
            },
        )

    async def post(
        self, path: str, *, json: Any = None, parts: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send JSON, or multipart `parts` as httpx takes them, to a path of the server; a reply below 400."""
        content = {"files": parts} if parts is not None else {"json": json}
        return await self._request("POST", self._config.url(path), headers or {}, **content)

    async def get(self, path: str) -> Reply:
        """Read a path of the server; a reply below 400."""
        return await self._request("GET", self._config.url(path), {})

    async def fetch(self, url: str) -> Reply:
        """Read a URL that a reply named; a reply below 300.

        Whatever goes wrong on the way passes or is this request's alone: links expire, come a moment too early and are
        on other hosts, whose 403 says nothing of the key.

        Raises:
            BackendBusyError: it cannot be had now.
            GenerationError: the URL is neither http nor https, or private where the server is public.
        """
        try:
            return await self._request("GET", url, {}, named_by_reply=True)
        except BackendBusyError:
            raise
        except (DependencyError, PolicyError) as error:
            raise BackendBusyError(_of_the_file(error)) from error
        except GenerationError as error:
            if error.status is None:  # no reply: the URL itself is wrong
                raise
            raise BackendBusyError(_of_the_file(error)) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], *, named_by_reply: bool = False, **content: Any
    ) -> Reply:
        for _ in range(MAX_REDIRECTS + 1):
            if _origin(url)[0] not in ("http", "https"):
                raise GenerationError(f"openai: the reply points to {_shown(url)!r}, which is neither http nor https")
            trusted = _origin(url) == _origin(self._config.base_url)
            sent = {**headers, **(self._credentials if trusted else {})}
            guarded = named_by_reply and not trusted and await self._is_public()
            if guarded:
                await self._require_public(url)
            reply = await self._exchange(method, url, sent, content, guarded=guarded)
            if reply.status not in _REDIRECTS or "location" not in reply.headers:
                if reply.status >= 300:
                    raise failure_of(reply, secrets=self._config.secrets)
                return reply
            target = urljoin(url, reply.headers["location"])
            if method != "GET" and (reply.status not in (307, 308) or _origin(target) != _origin(url)):
                raise GenerationError(
                    f"openai: {_shown(url)}: {reply.status}: redirected to {_shown(target)}, "
                    "where a prompt is not sent unasked (correct backend.base_url)"
                )
            url = target
        raise GenerationError(f"openai: {_shown(url)}: more than {MAX_REDIRECTS} redirects")

    async def _is_public(self) -> bool:
        """Whether the server is out of this network, so that its replies have no business in it."""
        if self._config.allow_private_urls:
            return False
        if self._public is None:
            addresses = await resolve(urlsplit(self._config.base_url).hostname or "")
            self._public = bool(addresses) and not any(map(is_private_address, addresses))
        return self._public

    async def _require_public(self, url: str) -> None:
        """Refuse a URL of this machine or its network.

        Raises:
            GenerationError: a host's address is private.
        """
        for address in await resolve(_origin(url)[1] or ""):
            if is_private_address(address):
                raise _private(url, address)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: Mapping[str, Any], *, guarded: bool = False
    ) -> Reply:
        try:
            async with self._client.stream(method, url, headers=dict(headers), **content) as response:
                if guarded:
                    _require_public_peer(response, url)
                lowered = {name.lower(): value for name, value in response.headers.items()}
                body = await self._read(response, url)
                return Reply(response.status_code, lowered, body, _shown(url))
        except httpx.HTTPError as exc:
            raise self._translate(exc, url) from exc
        except (httpx.InvalidURL, httpx.StreamError, UnicodeError) as exc:
            raise GenerationError(f"openai: {_shown(url)}: {self._said(exc)}") from exc

    async def _read(self, response: httpx.Response, url: str) -> bytes:
        failed = response.status_code >= 300
        limit = MAX_ERROR_BYTES if failed else self._config.max_response_bytes
        announced = response.headers.get("content-length", "")
        body = bytearray()
        if not failed and announced.isdigit() and int(announced) > limit:
            raise _too_large(url, f"{announced} bytes", limit)
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > limit:
                if failed:
                    break
                raise _too_large(url, f"over {limit} bytes", limit)
        return bytes(body)

    def _translate(self, exc: httpx.HTTPError, url: str) -> AbstractVisionError:
        what = f"openai: {_shown(url)}: {self._said(exc)}"
        if _is_tls(exc):
            return DependencyError(f"{what} (is the certificate trusted here? SSL_CERT_FILE names more)")
        if isinstance(exc, httpx.UnsupportedProtocol | httpx.ProxyError):
            return DependencyError(f"{what} (HTTP_PROXY and the like name the proxy)")
        if isinstance(exc, httpx.DecodingError):
            return InvalidOutputError(what)
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
            return BackendBusyError(f"{what} (is the server running? backend.base_url)", connected=False)
        return BackendBusyError(what, answered=False)

    def _said(self, exc: Exception) -> str:
        said = redact(str(exc), self._config.secrets)
        return f"{type(exc).__name__}: {said}" if said else type(exc).__name__


def _require_public_peer(response: httpx.Response, url: str) -> None:
    """Refuse a reply of a private address: a name may resolve to another one than a moment ago.

    Through a proxy the peer is the proxy, whose address says nothing.
    """
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    proxied = any(name.lower().endswith("_proxy") and value for name, value in os.environ.items())
    if isinstance(peer, tuple) and not proxied and is_private_address(str(peer[0])):
        raise _private(url, str(peer[0]))


def _private(url: str, address: str) -> GenerationError:
    return GenerationError(
        f"openai: the reply points to {_shown(url)}, which is at {address}, an address of this network "
        "(backend.allow_private_urls: true fetches it)"
    )


def _of_the_file(error: AbstractVisionError) -> str:
    """Return what was said of a file that a reply names, without the advice, which is for the server's own paths."""
    return f"{str(error).partition(' (')[0]} [the file that the reply names]"


def _too_large(url: str, size: str, limit: int) -> InvalidOutputError:
    return InvalidOutputError(
        f"openai: {_shown(url)}: the reply is {size}; more than {limit} are not read (backend.max_response_bytes)"
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; all empty for what is no URL."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None


def _shown(url: str) -> str:
    """A URL without what may be secret in it: signed links carry their key in the query."""
    return redact(re.split("[?#]", bare_url(url))[0])


def _is_tls(exc: BaseException | None) -> bool:
    seen = 0
    while exc is not None and seen < 8:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc, seen = exc.__cause__ or exc.__context__, seen + 1
    return False
