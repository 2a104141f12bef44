"""The Python package of stable-diffusion.cpp in a process of its own, driven over pipes.

Run as a script. A message is a length (8 bytes, big-endian), that many bytes of JSON, and then the blobs whose lengths
the JSON lists under `blobs`. Requests come on standard input, answers go to what was standard output; the library's own
output goes to standard error. No callbacks are set: those that the package sets dangle after the call.

Ends when standard input closes: a thread reads it, so that holds while the library computes.
Imports nothing of this project, which may be installed elsewhere than the library's process looks.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import queue
import struct
import sys
import threading
from typing import IO, Any

Message = tuple[dict[str, Any], list[bytes]]

#: The last line of the log that belongs to a failed operation.
END_OF_LOG = "[end of the log of a failed operation]"


def read_message(stream: IO[bytes]) -> Message:
    """Read one message.

    Raises:
        EOFError: the other end is gone.
    """
    (length,) = struct.unpack(">Q", _read(stream, 8))
    head = json.loads(_read(stream, length))
    return head, [_read(stream, size) for size in head.pop("blobs", [])]


def write_message(stream: IO[bytes], head: dict[str, Any], blobs: list[bytes]) -> None:
    """Write one message."""
    data = json.dumps(head | {"blobs": [len(blob) for blob in blobs]}).encode()
    stream.write(struct.pack(">Q", len(data)) + data)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the pipe is closed")
    return data


class Worker:
    """One loaded model."""

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, head: dict[str, Any], _: list[bytes]) -> Message:
        """Load the model of `arguments`."""
        import stable_diffusion_cpp

        self._model = stable_diffusion_cpp.StableDiffusion(**head["arguments"], verbose=True)
        if not self._model._model.model:
            self._model._model.model = None  # freeing a null pointer crashes
            raise RuntimeError("the library returned no model")
        videos = stable_diffusion_cpp.sd_ctx_supports_video_generation(self._model.model)
        return {"videos": bool(videos)}, []

    def generate(self, head: dict[str, Any], blobs: list[bytes]) -> Message:
        """Call `method` with `arguments`, and with the blobs as the images that `images` names in their order."""
        from PIL import Image

        arguments = head["arguments"]
        for name, blob in zip(head["images"], blobs, strict=True):
            image = Image.open(io.BytesIO(blob))
            image.load()
            arguments[name] = [image] if name == "ref_images" else image
        frames = [frame.convert("RGB") for frame in getattr(self._model, head["method"])(**arguments)]
        return {"sizes": [frame.size for frame in frames]}, [frame.tobytes() for frame in frames]


def _read_requests(stream: IO[bytes], requests: queue.SimpleQueue[Message]) -> None:
    try:
        while True:
            requests.put(read_message(stream))
    except (EOFError, OSError):
        os._exit(0)


def main() -> None:
    """Answer requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the library prints its progress to standard output
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(sys.stdin.buffer, requests), daemon=True).start()
    worker = Worker()
    operations = {"load": worker.load, "generate": worker.generate}
    while True:
        head, blobs = requests.get()
        try:
            answer, data = operations[head["operation"]](head, blobs)
        except Exception as exc:  # noqa: BLE001 - it is told to the other side, whatever it is
            answer, data = {"error": f"{type(exc).__name__}: {exc}"}, []
            ctypes.CDLL(None).fflush(None)  # what the library still holds of its log
            os.write(2, f"\n{END_OF_LOG}\n".encode())
        write_message(answers, answer, data)


if __name__ == "__main__":
    main()
