"""A small real server that speaks OpenAI's image and video API on 127.0.0.1, checks requests and misbehaves on demand.

Its pictures are the procedural backend's. `misbehave` queues what the next POST requests get instead of a picture.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from PIL import Image, ImageChops

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.media.images import MIME_TYPES, ImageFormat, decode_image, encode_image
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
)
from tests.support.openai_rules import Complaint, FormFile, check_edit, check_generation, check_video, typed_form

Fault = Callable[["Handler"], None]


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    files: list[FormFile]
    port: int
    """Of the client: one per connection."""
    at: float


@dataclass
class Job:
    content: bytes
    polls_left: int
    failure: dict[str, str] | None = None


@dataclass
class OpenAIServer:
    """State shared by the handler threads; tests set the first fields and read the rest."""

    strict: bool = False
    """Only the official fields, with the official rules for sizes."""
    api_key: str | None = None
    reply_as: str = "b64_json"
    """`b64_json`, `url`, `relative_url`, `data_url`, `bytes`, `null` or `both`."""
    image_format: ImageFormat = "png"
    finish: Callable[[bytes], bytes] = bytes
    """The last thing that happens to an image's file before it is sent."""
    delay_s: float = 0.0
    gate: threading.Barrier | None = None
    """Holds requests until as many are in flight."""
    capacity: int | None = None
    """Images generated at once; a request beyond that gets a 429."""
    retry_after: str | None = None
    models: list[Any] = field(default_factory=lambda: [{"id": "a-model", "object": "model", "owned_by": "us"}])
    polls: int = 1
    job_failure: dict[str, str] | None = None
    files_from: str = ""
    """Base of the URLs in replies; the server's own by default."""
    extra_images: int = 0
    says: dict[str, Any] = field(default_factory=dict)
    """More of each reply with images."""
    received: list[Received] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    file_faults: deque[Fault] = field(default_factory=deque)
    hosted: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    answered_at: list[float] = field(default_factory=list)
    """When each picture was sent."""
    in_flight: int = 0
    most_in_flight: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def posts(self) -> list[Received]:
        return [one for one in self.received if one.method == "POST"]

    @property
    def last(self) -> Received:
        return self.posts[-1]

    def misbehave(self, *faults: Fault) -> None:
        self.faults.extend(faults)

    def host(self, content: bytes) -> str:
        """Serve some bytes under a path of their own."""
        path = f"/files/{next(self.numbers)}"
        self.hosted[path] = content
        return path


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the usual 5, a burst of connections waits a second for its second SYN
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left before its request was read is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_server(**settings: Any) -> Iterator[OpenAIServer]:
    state = OpenAIServer(**settings)
    handler = type("BoundHandler", (Handler,), {"state": state})
    with _Server(("127.0.0.1", 0), handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.stopping.set()
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: OpenAIServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except ConnectionError:  # the client left, as some tests want it to
            self.close_connection = True

    def _get(self) -> None:
        self._record({}, [])
        path = unquote(self.path)
        if self.path.startswith("/files/") and self.state.file_faults:
            self.state.file_faults.popleft()(self)
        elif (hosted := self.state.hosted.get(self.path.partition("?")[0])) is not None:
            self.send(200, hosted, "application/octet-stream")
        elif self._refuses_key():
            return
        elif self.path == "/v1/models":
            self.send_json(200, {"object": "list", "data": self.state.models})
        elif path.startswith("/v1/videos/"):
            self._get_job(path.removeprefix("/v1/videos/"))
        else:
            self.send_json(404, {"detail": "Not Found"})

    def _post(self) -> None:
        fields, files = self._read()
        received = self._record(fields, files)
        if self.state.faults:
            with self.state.lock:
                fault = self.state.faults.popleft() if self.state.faults else None
            if fault is not None:
                fault(self)
                return
        if self._refuses_key():
            return
        with self._turn() as free:
            if not free:
                headers = {"Retry-After": self.state.retry_after} if self.state.retry_after else {}
                self.send_error_json(429, "Too many requests", "rate_limit_exceeded", headers)
            else:
                self.generate(received)
                self.state.answered_at.append(time.monotonic())

    def generate(self, received: Received) -> None:
        extended = not self.state.strict
        fields = received.fields
        if self.state.gate is not None:
            self.state.gate.wait(10)
        if self.state.delay_s:
            self.state.stopping.wait(self.state.delay_s)
        match received.path:
            case "/v1/images/generations":
                if not self._complains(check_generation(fields, extended=extended)):
                    self._send_images([draw_image(fields, n) for n in range(self._count(fields))])
            case "/v1/images/edits":
                if not self._complains(check_edit(fields, received.files, extended=extended)):
                    self._send_images([draw_edit(fields, received.files)] * self._count(fields))
            case "/v1/videos":
                if not self._complains(check_video(fields, received.files, extended=extended)):
                    self._create_job(draw_video(fields, received.files))
            case "/v1/t2v" | "/v1/i2v":
                self._send_media(draw_video(fields, received.files), {})
            case _:
                self.send_json(404, {"detail": "Not Found"})

    def _count(self, fields: Mapping[str, Any]) -> int:
        return int(fields.get("n", 1)) + self.state.extra_images

    def _send_images(self, images: list[Image.Image]) -> None:
        contents = [self.state.finish(encode_image(image, self.state.image_format)) for image in images]
        if self.state.reply_as == "bytes":
            self.send(200, contents[0], MIME_TYPES[self.state.image_format])
            return
        usage = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
        data = [{**self._item(content), "revised_prompt": "a revised prompt"} for content in contents]
        self.send_json(200, {"created": 1_700_000_000, "data": data, "usage": usage, **self.state.says})

    def _send_media(self, content: bytes, more: dict[str, Any]) -> None:
        if self.state.reply_as == "bytes":
            self.send(200, content, "video/mp4")
        else:
            self.send_json(200, {"created": 1_700_000_000, "data": [self._item(content)], **more})

    def _item(self, content: bytes) -> dict[str, Any]:
        encoded = base64.b64encode(content).decode()
        base = self.state.files_from or self.state.url
        match self.state.reply_as:
            case "url":
                return {"url": f"{base}{self.state.host(content)}?sig=secret"}
            case "relative_url":
                return {"url": self.state.host(content)}
            case "data_url":
                return {"url": f"data:image/png;base64,{encoded}"}
            case "null":
                return {"b64_json": None, "url": None}
            case "both":
                return {"b64_json": None, "url": f"{base}{self.state.host(content)}"}
            case _:
                return {"b64_json": encoded}

    def _create_job(self, content: bytes) -> None:
        job_id = f"video_{next(self.state.numbers)}/a+b="  # a proxy's ids are base64
        self.state.jobs[job_id] = Job(content, self.state.polls, self.state.job_failure)
        self.send_json(200, {"id": job_id, "object": "video", "status": "queued", "created_at": 1_700_000_000})

    def _get_job(self, path: str) -> None:
        job_id = path.removesuffix("/content")
        job = self.state.jobs.get(job_id)
        if job is None:
            self.send_error_json(404, "No such video", "not_found")
        elif path.endswith("/content"):
            self.send(200, job.content, "video/mp4")
        else:
            job.polls_left -= 1
            done = "failed" if job.failure else "completed"
            body: dict[str, Any] = {
                "id": job_id,
                "status": done if job.polls_left <= 0 else "in_progress",
                "error": None,
            }
            if job.failure and job.polls_left <= 0:
                body["error"] = job.failure
            self.send_json(200, body, {"openai-poll-after-ms": "10"})

    def _refuses_key(self) -> bool:
        if self.state.api_key is None or self.headers.get("Authorization") == f"Bearer {self.state.api_key}":
            return False
        given = self.headers.get("Authorization", "")
        self.send_error_json(401, f"Incorrect API key provided: {given}", "invalid_api_key")
        return True

    def _complains(self, complaint: Complaint | None) -> bool:
        if complaint is not None:
            message, parameter, code = complaint
            self.send_json(400, error_body(message, code, parameter))
        return complaint is not None

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        state = self.state
        with state.lock:
            free = state.capacity is None or state.in_flight < state.capacity
            state.in_flight += free
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            yield free
        finally:
            with state.lock:
                state.in_flight -= free

    def _record(self, fields: dict[str, Any], files: list[FormFile]) -> Received:
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.command, self.path, headers, fields, files, self.client_address[1], time.monotonic())
        self.state.received.append(received)
        return received

    def _read(self) -> tuple[dict[str, Any], list[FormFile]]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            fields, files = parse_form(body, kind.partition("boundary=")[2].strip('"'))
            return typed_form(fields), files
        return (json.loads(body) if body else {}), []

    def send(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self.send(status, json.dumps(body).encode(), "application/json", headers)

    def send_error_json(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_json(status, error_body(message, code), headers)


def error_body(message: str, code: str | None, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}}


def answers(status: int, body: Any, **headers: str) -> Fault:
    """Answer with this status and JSON, text or bytes; a header's `_` is a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(handler: Handler) -> None:
        content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
        if content is None:
            handler.send_json(status, body, named)
        else:
            handler.send(status, content, "text/html" if content.startswith(b"<") else "text/plain", named)

    return fault


def refuses(status: int, message: str, code: str | None = None, **headers: str) -> Fault:
    return answers(status, error_body(message, code), **headers)


def hangs(handler: Handler) -> None:
    """Never answer."""
    handler.close_connection = True
    handler.state.stopping.wait(30)


def trickles(handler: Handler) -> None:
    """Send a byte now and then, so that no read ever times out."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not handler.state.stopping.wait(0.02):
        handler.wfile.write(b" ")


def resets(handler: Handler) -> None:
    """Reset the connection where a reply is due."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def never_ends(handler: Handler) -> None:
    """Send zeros until the client has had enough."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not handler.state.stopping.is_set():
        handler.wfile.write(bytes(65536))


def announces(size: int) -> Fault:
    """Say that the body has `size` bytes, and begin it."""

    def fault(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{" % size)
        handler.state.stopping.wait(5)

    return fault


def half_a_json(handler: Handler) -> None:
    handler.send(200, b'{"created": 1, "data": [{"b64_json": "iVBORw0KGgo', "application/json")


def redirects(status: int, location: str) -> Fault:
    return answers(status, "", Location=location)


def parse_form(body: bytes, boundary: str) -> tuple[dict[str, str], list[FormFile]]:
    fields: dict[str, str] = {}
    files: list[FormFile] = []
    for part in body.split(b"--" + boundary.encode())[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        filename = re.search(rb'filename="([^"]*)"', head)
        kind = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
        assert name is not None
        if filename is None:
            fields[name[1].decode()] = content.decode()
        else:
            files.append(FormFile(name[1].decode(), filename[1].decode(), kind and kind[1].decode(), content))
    return fields, files


def _size_of(fields: Mapping[str, Any]) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"(\d+)[x*](\d+)", str(fields.get("size", "")))
    return (int(found[1]), int(found[2])) if found else (fields.get("width"), fields.get("height"))


def _shared(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields.get(name) for name in ("negative_prompt", "seed", "steps", "guidance_scale")}


def draw_image(fields: Mapping[str, Any], number: int = 0) -> Image.Image:
    width, height = _size_of(fields)
    shared = _shared(fields)
    shared["seed"] = (shared["seed"] or 0) + number
    request = ImageGenerationRequest(fields["prompt"], width=width, height=height, **shared)
    return decode_image(ProceduralVisionBackend().generate_image(request).data)


def draw_edit(fields: Mapping[str, Any], files: list[FormFile]) -> Image.Image:
    """Change what the mask's alpha channel leaves transparent, as the official endpoint does."""
    width, height = _size_of(fields)
    image = next(file for file in files if file.name in ("image", "image[]"))
    mask = next((file for file in files if file.name == "mask"), None)
    request = ImageEditRequest(
        fields["prompt"],
        image=image.content,
        mask=None if mask is None else _white_where_transparent(mask.content),
        width=width,
        height=height,
        strength=fields.get("strength"),
        **_shared(fields),
    )
    return decode_image(ProceduralVisionBackend().edit_image(request).data)


def draw_video(fields: Mapping[str, Any], files: list[FormFile]) -> bytes:
    width, height = _size_of(fields)
    video: dict[str, Any] = {"width": width and min(width, 64), "height": height and min(height, 64)}
    video |= {"num_frames": fields.get("num_frames", 4), "fps": fields.get("fps", 4)}
    backend = ProceduralVisionBackend()
    image = files[0].content if files else base64.b64decode(fields.get("image_b64", ""))
    if not image:
        return backend.generate_video(VideoGenerationRequest(fields["prompt"], **video, **_shared(fields))).data
    return backend.image_to_video(ImageToVideoRequest(image, fields.get("prompt"), **video, **_shared(fields))).data


def _white_where_transparent(mask: bytes) -> bytes:
    alpha = Image.open(io.BytesIO(mask)).convert("RGBA").getchannel("A")
    return encode_image(ImageChops.invert(alpha).convert("RGB"), "png")
