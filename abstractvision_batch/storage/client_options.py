"""Options of the object stores' clients that matter here, set where the user did not.

Credentials are none of them: each driver finds those in its ecosystem's own places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: At least as many as `execution.writer_threads` may be. botocore's own 10 caps s3fs at 10 requests in flight, however
#: many threads put: 173 instead of 307 puts/s with 32 threads at 40 ms each (2-core Debian 12, 2026-11).
CONNECTIONS = 256
#: Parts of one large object in flight; each is held in memory, 50 MB of it.
PARTS_IN_FLIGHT = 4
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
#: gcsfs: of one whole request, up to 50 MB of body included.
REQUEST_TIMEOUT_S = 300

_S3: dict[str, Any] = {
    "max_concurrency": PARTS_IN_FLIGHT,
    "config_kwargs": {
        "max_pool_connections": CONNECTIONS,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # `storage.retries` does it: a client that puts again by itself may meet its own object and call it another's.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
    },
}
_GCS: dict[str, Any] = {"requests_timeout": REQUEST_TIMEOUT_S}
_AZURE: dict[str, Any] = {
    "max_concurrency": PARTS_IN_FLIGHT,
    "connection_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
}
#: By protocol of the URL.
DEFAULTS = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "abfs": _AZURE, "abfss": _AZURE, "az": _AZURE}


def client_options(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The user's options over ours; nested ones (`config_kwargs`) key by key."""
    # Another process's writes do not show in a cached listing.
    return _over({"use_listings_cache": False, **DEFAULTS.get(protocol, {})}, options)


def _over(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in theirs.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _over(merged[name], value) if nested else value
    return merged
