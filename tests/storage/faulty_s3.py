"""Moto's S3 behind a door that throttles, refuses and hangs up on demand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

THROTTLED = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Read only</Message></Error>"


@dataclass
class FaultyS3:
    """What stands in `faults` happens to the next requests of its method, in order; `refused` methods never pass."""

    app: Callable[..., Iterable[bytes]]
    faults: list[tuple[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    refused: tuple[str, ...] = ()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests.append(method)
        if method in self.refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [] if method == "HEAD" else [DENIED]
        fault = next((fault for fault in self.faults if fault[0] == method), None)
        if fault is None:
            return self.app(environ, start_response)
        self.faults.remove(fault)
        match fault[1]:
            case "throttle":
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [] if method == "HEAD" else [THROTTLED]
            case "done, then hang up":
                list(self.app(environ, lambda *answer: None))
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
    yield door, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
