"""Generation by any server that speaks OpenAI's image and video API, official or local, on httpx.

`fields` its section of a spec · `dialects` what each kind of server reads, as data · `dialect_check` what of a job a
server would ignore · `config` what a user says · `identify` what the server says of itself · `settlement` which dialect
follows · `speech` parameters in a dialect · `image_calls`, `video_calls` a request as the server wants it · `form`
multipart bodies · `input_images` images and masks to upload · `session` one request from call to assets · `video_jobs`
create, poll, download · `retries` and `concurrency` patience · `transport` the only file that knows httpx · `replies`
what came back · `failures` what went wrong · `catalog` the provider's models · `event_loop` a loop in a thread ·
`backend` the interface over all that.

Importing this package does not import httpx.
"""

from __future__ import annotations

from typing import Any

from abstractvision_batch import backends

__all__ = ["OpenAICompatibleBackendConfig", "OpenAICompatibleVisionBackend"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use, because a spec needs this package's `fields` alone
        return getattr(backends, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
