"""Servers of several kinds on 127.0.0.1, each a table of what it reads: what it does not know it drops without a word.

Their pictures are the procedural backend's, of what they did read; `read` has that under our names. The tables are
written from the servers' own documents, apart from those of the package.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.media.images import decode_image, encode_image
from abstractvision_batch.types import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
)
from tests.support.openai_server import parse_form


@dataclass(frozen=True)
class Route:
    """What one path reads: the server's field → our name; a field that is not here is dropped."""

    task: str
    fields: Mapping[str, str]
    body: str = "json"
    """`json`, `form`, or `form_with_file`: JSON, but a form needs a file."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The form's file, or the JSON's base64 → `image` or `mask`."""
    wrapped_in: str | None = None
    """The field whose JSON text holds `fields`."""
    splits_prompt: bool = False
    """Whether what follows a `|` is the negative prompt."""
    refuses: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that are answered with 400; `...` stands for any."""
    reply: str = "b64_json"
    """Where nothing is asked: `b64_json`, `url`, `disk` (a path of its own disk), `bytes`, `job`."""
    image_format: str = "png"
    """Where nothing is asked."""
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One kind of server."""

    routes: Mapping[str, Route]
    pages: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


_VLLM = {
    "size": "size",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
}
_VIDEO = {**_VLLM, "num_frames": "num_frames", "fps": "fps"}
_OURS = {name: name for name in ("size", "steps", "guidance_scale", "negative_prompt", "seed", "strength")}
MODEL = {"id": "a-model", "object": "model", "created": 1}

KINDS: dict[str, Kind] = {
    "vllm_omni": Kind(
        {
            "/v1/images/generations": Route("text_to_image", _VLLM, refuses={"response_format": ("url",)}),
            "/v1/images/edits": Route(
                "image_to_image",
                {**_VLLM, "strength": "strength"},
                body="form",
                files={"image": "image", "image[]": "image", "mask_image": "mask"},
            ),
            "/v1/videos/sync": Route("video", _VIDEO, body="form", files={"input_reference": "image"}, reply="bytes"),
            "/v1/videos": Route("video", _VIDEO, body="form", files={"input_reference": "image"}, reply="job"),
        },
        {
            "/v1/models": {"data": [{**MODEL, "owned_by": "vllm", "root": "/models/a"}]},
            "/version": {"version": "0.30.0"},
        },
    ),
    "sglang": Kind(
        {
            "/v1/images/generations": Route(
                "text_to_image", _VLLM, reply="no_url", image_format="jpeg", defaults={"seed": 42}
            ),
            "/v1/images/edits": Route(
                "image_to_image",
                _VLLM,
                body="form",
                files={"image": "image", "image[]": "image"},
                reply="no_url",
                image_format="jpeg",
                defaults={"seed": 42},
            ),
            "/v1/videos": Route(
                "video", _VIDEO, body="form_with_file", files={"input_reference": "image"}, reply="job"
            ),
        },
        {
            "/v1/models": {"data": [{**MODEL, "owned_by": "sglang", "root": "a-model"}]},
            "/server_info": {"version": "0.5.23", "model_path": "/models/a", "tp_size": 1},
        },
    ),
    "localai": Kind(
        {
            "/v1/images/generations": Route(
                "text_to_image",
                {"size": "size", "step": "steps", "seed": "seed"},
                files={"file": "image"},
                splits_prompt=True,
                reply="url",
            ),
            "/video": Route(
                "video",
                {
                    **{name: name for name in ("width", "height", "num_frames", "fps", "seed", "negative_prompt")},
                    "step": "steps",
                    "cfg_scale": "guidance_scale",
                },
                files={"start_image": "image"},
                reply="url",
            ),
        },
        {
            "/v1/models": {"data": [{"id": "a-model", "object": "model"}]},
            "/system": {"backends": ["diffusers"], "loaded_models": [{"id": "a-model"}]},
            "/version": {"version": "v3.9.0"},
        },
    ),
    "xinference": Kind(
        {
            "/v1/images/generations": Route(
                "text_to_image",
                {name: ours for name, ours in _VLLM.items() if name != "size"},
                wrapped_in="kwargs",
                reply="disk",
            ),
            "/v1/images/edits": Route(
                "image_to_image", {}, body="form", files={"image": "image", "mask": "mask"}, reply="disk"
            ),
        },
        {
            "/v1/models": {"data": [{**MODEL, "owned_by": "xinference", "model_type": "image"}]},
            "/v1/cluster/version": {"version": "2.1.0", "full-revisionid": "abc"},
        },
    ),
    "litellm": Kind(
        {
            "/v1/images/generations": Route("text_to_image", _OURS, refuses={"response_format": (...,)}),
            "/v1/images/edits": Route(
                "image_to_image",
                _OURS,
                body="form",
                files={"image": "image", "mask": "mask"},
                refuses={"response_format": (...,)},
            ),
            "/v1/videos": Route(
                "video",
                {**_OURS, "num_frames": "num_frames", "fps": "fps"},
                body="form",
                files={"input_reference": "image"},
                reply="job",
            ),
        },
        {"/v1/models": {"data": [{**MODEL, "owned_by": "openai"}]}, "/health/liveliness": "I'm alive!"},
    ),
    "unknown": Kind(
        {
            "/v1/images/generations": Route("text_to_image", _OURS),
            "/v1/images/edits": Route("image_to_image", _OURS, body="form", files={"image": "image", "mask": "mask"}),
        },
        {"/v1/models": {"data": [{**MODEL, "owned_by": "us"}]}},
    ),
}


@dataclass
class DialectServer:
    """One running server; tests may change `kind` and the rest under way."""

    kind: Kind
    port: int = 0
    deaf_to: tuple[str, ...] = ()
    """Of our names: read, and passed over."""
    random_seed: bool = False
    """Each picture has a seed of its own, whatever is asked for."""
    size: str | None = None
    """Of every picture, whatever is asked for."""
    image_format: str | None = None
    job: dict[str, Any] = field(default_factory=dict)
    """More of a job's record, once it is done."""
    content_status: int = 200
    read: list[dict[str, Any]] = field(default_factory=list)
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    hosted: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def become(self, kind: str) -> None:
        self.kind = KINDS[kind]


@contextmanager
def dialect_server(kind: str, **settings: Any) -> Iterator[DialectServer]:
    state = DialectServer(KINDS[kind], **settings)
    handler = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    state: DialectServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        state, path = self.state, self.path
        state.asked.append(path)
        if path in state.hosted and not path.endswith("/content"):
            self.send(200, state.hosted[path])
        elif path.endswith("/content"):
            self.send(state.content_status, state.hosted[path] if state.content_status == 200 else b"{}")
        elif f"{path}/content" in state.hosted:
            self.send_json(200, {"id": path.rpartition("/")[2], "status": "completed", **state.job})
        elif path in state.kind.pages:
            self.send_json(200, state.kind.pages[path])
        else:
            self.send_json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = self.state.kind.routes.get(self.path)
        if route is None:
            self.send_json(404, {"detail": "Not Found"})
            return
        kind = self.headers.get("Content-Type", "")
        is_form = kind.startswith("multipart/form-data")
        sent: dict[str, Any]
        if is_form:
            fields, files = parse_form(body, kind.partition("boundary=")[2].strip('"'))
            sent, images = dict(fields), {file.name: file.content for file in files}
        else:
            sent, images = json.loads(body), {}
            images = {name: base64.b64decode(sent[name]) for name in route.files if name in sent}
        self.state.posts.append((self.path, sent))
        wants_form = route.body == "form" or (route.body == "form_with_file" and bool(images))
        if is_form != wants_form:
            self.send_json(400, {"detail": "input_reference is required" if is_form else "a form is required"})
            return
        for name, values in route.refuses.items():
            if name in sent and (values == (...,) or sent[name] in values):
                self.send_json(400, {"error": {"message": f"UnsupportedParamsError: {name}", "code": "400"}})
                return
        self._answer(route, sent, images)

    def _answer(self, route: Route, sent: dict[str, Any], images: dict[str, bytes]) -> None:
        read = self._read(route, sent, images)
        self.state.read.append(read)
        known = {name: value for name, value in read.items() if name not in self.state.deaf_to}
        if self.state.random_seed:
            known["seed"] = len(self.state.read)
        content = _draw_video(known) if route.task == "video" else self._encode(_draw_image(known), route, sent)
        reply = str(sent.get("response_format", route.reply)) if route.reply not in ("bytes", "job") else route.reply
        if reply == "no_url":
            self.send_json(400, {"detail": "response_format='url' requires cloud storage to be configured."})
        elif reply == "bytes":
            self.send(200, content)
        elif reply == "job":
            path = f"/v1/videos/{len(self.state.hosted)}"
            self.state.hosted[f"{path}/content"] = content
            self.send_json(200, {"id": path.rpartition("/")[2], "status": "queued"})
        elif reply == "b64_json":
            self.send_json(200, {"created": 1, "data": [{"b64_json": base64.b64encode(content).decode()}]})
        elif reply == "disk":
            self.send_json(200, {"created": 1, "data": [{"url": "/root/.cache/image.png"}]})
        else:
            path = f"/files/{len(self.state.hosted)}"
            self.state.hosted[path] = content
            self.send_json(200, {"created": 1, "data": [{"url": self.state.url + path}]})

    def _read(self, route: Route, sent: dict[str, Any], images: dict[str, bytes]) -> dict[str, Any]:
        inside = json.loads(sent.get(route.wrapped_in, "{}")) if route.wrapped_in else sent
        read = {**route.defaults, "prompt": sent.get("prompt", "")}
        read |= {ours: _typed(inside[name]) for name, ours in route.fields.items() if inside.get(name) is not None}
        if route.splits_prompt:
            prompt, _, negative = read["prompt"].partition("|")
            read |= {"prompt": prompt} | ({"negative_prompt": negative} if negative else {})
        size = re.fullmatch(r"(\d+)[x*](\d+)", str(sent.get("size", "")))
        read.pop("size", None)
        if size and "width" not in route.fields:
            read |= {"width": int(size[1]), "height": int(size[2])}
        return read | {ours: images[name] for name, ours in route.files.items() if name in images}

    def _encode(self, image: Image.Image, route: Route, sent: dict[str, Any]) -> bytes:
        if self.state.size is not None:
            width, height = map(int, self.state.size.split("x"))
            image = image.resize((width, height))
        asked = sent.get("output_format", route.image_format)
        name: Any = self.state.image_format or asked
        return encode_image(image, name)

    def send(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.state.kind.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, body: Any) -> None:
        self.send(status, json.dumps(body).encode(), "application/json")


def _typed(value: Any) -> Any:
    """A form's text as a number where it is one."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return float(value) if "." in value else int(value)
    return value


def _draw_image(read: Mapping[str, Any]) -> Image.Image:
    values = {name: value for name, value in read.items() if name not in ("image", "mask")}
    backend = ProceduralVisionBackend()
    if "image" not in read:
        values.pop("strength", None)
        return decode_image(backend.generate_image(ImageGenerationRequest(**values)).data)
    mask = read.get("mask")
    request = ImageEditRequest(**values, image=read["image"], mask=mask and _by_colour(mask))
    return decode_image(backend.edit_image(request).data)


def _draw_video(read: Mapping[str, Any]) -> bytes:
    values = {"num_frames": 3, "fps": 4, **read}
    values.pop("strength", None)
    backend = ProceduralVisionBackend()
    if "image" in values:
        return backend.image_to_video(ImageToVideoRequest(**values)).data
    return backend.generate_video(VideoGenerationRequest(**values)).data


def _by_colour(mask: bytes) -> bytes:
    return encode_image(decode_image(mask).convert("L").convert("RGB"), "png")


def with_headers(kind: str, **headers: str) -> Kind:
    """A kind whose replies carry headers of their own; a header's `_` is a dash."""
    return replace(KINDS[kind], headers={name.replace("_", "-"): value for name, value in headers.items()})
