"""An S3 that throttles, breaks, hangs, refuses and lies on demand: moto behind a door, for a store or a whole job.

The objects are those of the fixture `s3_server`, which runs in the same process.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

THROTTLED = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BROKEN = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We made a mistake</Message></Error>"
ANSWERS = {
    "throttle": ("503 Slow Down", THROTTLED),
    "deny": ("403 Forbidden", DENIED),
    "done, then 500": ("500 Internal Server Error", BROKEN),
}
#: A hang is an answer that does not come for so long, in seconds, and then a reset.
HANG_S = 3.0


@dataclass
class Fault:
    """What happens to requests of a method whose path matches."""

    method: str
    """A regular expression, as `key`."""
    what: str
    """`throttle`, `deny`, `hang`, `hang up`, `done, then hang up` or `done, then 500`."""
    key: str = ""
    every: int = 1
    """Of the matching requests, each of that number."""
    after: int = 0
    """Matching requests that pass before."""
    times: int | None = 1
    """How often; None: for good."""
    seen: int = 0
    done: int = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether it happens to this request, counting it."""
        if not re.fullmatch(self.method, method) or not re.search(self.key, path):
            return False
        self.seen += 1
        late = self.seen - self.after
        if late <= 0 or late % self.every or (self.times is not None and self.done >= self.times):
            return False
        self.done += 1
        return True


@dataclass
class FaultyS3:
    """The door. A request suffers the first fault that hits it."""

    app: Callable[..., Iterable[bytes]]
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    """Methods that are denied for good."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _healed: threading.Event = field(default_factory=threading.Event)

    @property
    def pending(self) -> list[str]:
        """Faults that have not happened as often as they should."""
        return [fault.what for fault in self.faults if fault.times is not None and fault.done < fault.times]

    def heal(self) -> None:
        """From now on all is well."""
        self.faults, self.refused = [], ()
        self._healed.set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        with self._lock:
            self.requests.append(method)
            what = (
                "deny"
                if method in self.refused
                else next((fault.what for fault in self.faults if fault.hits(method, environ["PATH_INFO"])), None)
            )
        if what is None:
            return self.app(environ, start_response)
        if what.startswith("done"):
            list(self.app(environ, lambda *answer: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if what in ANSWERS:
            status, body = ANSWERS[what]
            start_response(status, [("Content-Type", "application/xml")])
            return [] if method == "HEAD" else [body]
        if what == "hang":
            self._healed.wait(HANG_S)
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response("500 Nobody reads this", [])
        return []


@contextmanager
def running_door() -> Iterator[tuple[FaultyS3, str]]:
    """The door and its URL, the client's `endpoint_url`; behind it is what every other S3 of the tests holds."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    door = FaultyS3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield door, f"http://127.0.0.1:{server.server_port}"
    finally:
        door.heal()
        server.shutdown()
        thread.join()
        server.server_close()
