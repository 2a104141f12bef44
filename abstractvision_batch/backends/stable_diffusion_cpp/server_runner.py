"""Mode `server`: one sd-server on a free port of 127.0.0.1, which loads the model once.

It is asked through its native API: a job is posted, then polled. A running job cannot be interrupted, so what is
cancelled or late ends the server, and the next request starts another.

Not covered: videos, which the server sends in lossy containers alone.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from typing import Any

from abstractvision_batch.backends.stable_diffusion_cpp.child import Child, start_program
from abstractvision_batch.backends.stable_diffusion_cpp.cli_runner import check_extra_args
from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.options import CONTEXT, choose_flag, command_line, json_body
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import Generation
from abstractvision_batch.backends.stable_diffusion_cpp.program import find_server, probe_program
from abstractvision_batch.backends.stable_diffusion_cpp.runner import (
    POLL_S,
    Watch,
    context_values,
    raise_failure,
    raise_unloadable,
    require_loras_applied,
    wait_until,
)
from abstractvision_batch.errors import DependencyError, GenerationError, InvalidOutputError
from abstractvision_batch.media.images import Rgb, decode_image, to_rgb_array

_HOST = "127.0.0.1"
_ANSWER_TIMEOUT_S = 30.0  # of one answer, not of a generation
_CRASH_GRACE_S = 5.0
_MAX_STEPS = 100  # more are cut down without a word
_PORT_TRIES = 3
_IMAGE_FIELDS = {"init": "init_image", "mask": "mask_image"}


class ServerRunner:
    """Keeps one sd-server."""

    def __init__(self, config: StableDiffusionCppBackendConfig, loras: LoraFolder) -> None:
        self._config = config
        self._loras = loras
        self._program = probe_program(find_server(config))
        check_extra_args(config.extra_args, self._program.flags, self._program.path)
        self._child: Child | None = None
        self._port = 0
        self._known: dict[str, list[str]] = {}

    @property
    def port(self) -> int | None:
        """Where the server listens; None while there is none."""
        return self._port if self._child is not None else None

    def load(self) -> None:
        """Start the server and wait until it answers."""
        self._running(Watch(self._config.timeout_s))

    def generate(self, generation: Generation, watch: Watch) -> list[Rgb]:
        """Post one job and poll it."""
        child = self._running(Watch(self._config.timeout_s, watch.cancelled))
        body = self._body(generation)
        child.clear_log()
        with watch.over(child):
            answer = self._job(child, body, watch)
            watch.finish(child)
        require_loras_applied(generation, child)
        frames = [_decode(image["b64_json"]) for image in answer["images"]]
        if not frames:
            raise InvalidOutputError("sd-server answered without a picture")
        return frames

    def describe(self) -> dict[str, Any]:
        """The program."""
        return {"mode": "server", "program": self._program.path, "program_sha256": self._program.sha256}

    def close(self) -> None:
        """End the server."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _running(self, watch: Watch) -> Child:
        if self._child is not None and self._child.alive:
            return self._child
        self.close()
        for _ in range(_PORT_TRIES):
            child = self._start(watch)
            if child is not None:
                self._child = child
                return child
        raise DependencyError(f"{self._program.path}: no free port on {_HOST} in {_PORT_TRIES} tries (try again)")

    def _start(self, watch: Watch) -> Child | None:
        """Start a server; None if another process was faster to take its port."""
        self._port = _free_port()
        flags, name = self._program.flags, self._program.path
        command = [name, *command_line(context_values(self._config, self._loras), CONTEXT, flags, name)]
        command += self._config.extra_args
        command += [choose_flag(("--listen-ip", "-l"), flags, name), _HOST]
        command += [choose_flag(("--listen-port",), flags, name), str(self._port)]
        child = start_program(command, cwd=self._config.cwd)
        with watch.over(child):
            wait_until(self._answers, child, watch)
            if not child.alive:
                ending = child.wait_for_end()
                if any("listening on" in line for line in child.log_lines()):
                    return None
                raise_unloadable(name, ending or "it ended", child)
            self._read_capabilities(child)
        return child

    def _answers(self) -> bool:
        try:
            socket.create_connection((_HOST, self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def _read_capabilities(self, child: Child) -> None:
        status, facts = self._call(child, "GET", "/sdcpp/v1/capabilities")
        if status != 200 or "samplers" not in facts:
            raise DependencyError(f"{self._program.path}: it has no /sdcpp/v1 API (install version 0.4.6 or newer)")
        self._known = {"sampler": facts["samplers"], "scheduler": facts.get("schedulers", [])}

    def _body(self, generation: Generation) -> dict[str, Any]:
        if generation.fps is not None:
            raise GenerationError("sd-server sends videos in lossy containers alone (use mode cli or python)")
        if generation.values["steps"] > _MAX_STEPS:
            raise GenerationError(f"steps: sd-server runs at most {_MAX_STEPS} (use mode cli or python)")
        for key, known in self._known.items():
            value = generation.values.get(key)
            if value is not None and value not in known:  # it would run another one without a word
                raise GenerationError(f"{key}: {value!r} is unknown to sd-server (known: {', '.join(known)})")
        body = json_body(generation.values)
        for kind, data in generation.images.items():
            encoded = base64.b64encode(data).decode()
            if kind == "reference":
                if decode_image(data).size != (generation.values["width"], generation.values["height"]):
                    raise GenerationError(
                        "width and height: sd-server crops a reference image to them "
                        "(leave them out, or use mode cli or python)"
                    )
                body["ref_images"] = [encoded]
            else:
                body[_IMAGE_FIELDS[kind]] = encoded
        body["lora"] = [{"path": lora.name, "multiplier": lora.scale} for lora in generation.loras]
        return body | {"batch_count": 1, "output_format": "png", "embed_image_metadata": False}

    def _job(self, child: Child, body: dict[str, Any], watch: Watch) -> dict[str, Any]:
        status, job = self._call(child, "POST", "/sdcpp/v1/img_gen", body)
        if status != 202:
            said = job.get("message") or job.get("error")
            raise GenerationError(f"sd-server refused the request: {said} ({child.explain()})")
        path = f"/sdcpp/v1/jobs/{job['id']}"
        pause = 0.002
        while job["status"] in ("queued", "generating"):
            watch.poll(child)
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_S)
            status, job = self._call(child, "GET", path)
            if status != 200:
                raise GenerationError(f"sd-server lost the job (status {status}: {job.get('error')})")
        if job["status"] != "completed":
            raise_failure("sd-server", str((job.get("error") or {}).get("message")), child)
        result: dict[str, Any] = job["result"]
        return result

    def _call(self, child: Child, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_ANSWER_TIMEOUT_S)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if child.ends_within(_CRASH_GRACE_S):  # a connection breaks before a crash is over
                raise_failure("sd-server", child.wait_for_end() or "it ended", child)
            raise GenerationError(f"sd-server: no answer to {method} {path} ({type(exc).__name__}: {exc})") from exc
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _decode(encoded: str) -> Rgb:
    return to_rgb_array(decode_image(base64.b64decode(encoded), name="sd-server's picture"))
