"""A server that bears k requests at once, refuses others with 429, and changes k by a schedule. A process of its own.

    POST /schedule            {"capacities": [4, 16], "each_s": 5.0, "start_at": seconds since 1970, "service_s": 0.1}
    GET  /counts              what it answered and refused in each step of the schedule, and after the last
    POST /v1/images/...       a picture after 75 to 125 % of `service_s`

A schedule with a negative start begins with the first picture. After it the server bears `AFTERWARDS`, so that
what is left ends soon.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PIL import Image

from abstractvision_batch.media.images import encode_image

AFTERWARDS = 64
PICTURE = base64.b64encode(encode_image(Image.new("RGB", (16, 16), "teal"), "png")).decode()


@dataclass(frozen=True)
class Schedule:
    """One capacity after the other, each for as long."""

    capacities: Sequence[int]
    each_s: float
    start_at: float
    service_s: float

    @property
    def ends_at(self) -> float:
        return self.start_at + self.each_s * len(self.capacities)

    def step(self) -> int:
        return min(max(0, int((time.time() - self.start_at) / self.each_s)), len(self.capacities))

    def capacity(self) -> int:
        return [*self.capacities, AFTERWARDS][self.step()]


@dataclass
class _Server:
    schedule: Schedule = Schedule((), 1.0, 0.0, 0.1)
    working_on: int = 0
    answered: list[int] = field(default_factory=lambda: [0])
    refused: list[int] = field(default_factory=lambda: [0])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
                body = await reader.readexactly(int(length or 0))
                status, answer = await self._answer(head.split()[1], body)
                content = json.dumps(answer).encode()
                line = (
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                )
                writer.write(line.encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/schedule":
            self.schedule = Schedule(**json.loads(body))
            self.answered = [0] * (len(self.schedule.capacities) + 1)
            self.refused = list(self.answered)
            return 200, {}
        if path == "/counts":
            return 200, {"answered": self.answered, "refused": self.refused}
        if path == "/v1/models":
            return 200, {"object": "list", "data": []}
        if self.schedule.start_at < 0:
            self.schedule = replace(self.schedule, start_at=time.time())
        if self.working_on >= self.schedule.capacity():
            self.refused[self.schedule.step()] += 1
            return 429, {"error": {"message": "Too many requests", "type": "", "param": None, "code": "rate_limit"}}
        self.working_on += 1
        await asyncio.sleep(self.schedule.service_s * random.uniform(0.75, 1.25))
        self.working_on -= 1
        self.answered[self.schedule.step()] += 1
        return 200, {"created": 0, "data": [{"b64_json": PICTURE}]}


@dataclass(frozen=True)
class LimitedServer:
    """The server from outside."""

    url: str

    def start(self, schedule: Schedule) -> None:
        """Begin a schedule."""
        data = json.dumps(asdict(schedule)).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/schedule", data=data)) as reply:
            reply.read()

    def counts(self) -> tuple[list[int], list[int]]:
        """Answered and refused, by step of the schedule, what came after it last."""
        with urllib.request.urlopen(f"{self.url}/counts") as reply:
            found = json.load(reply)
        return found["answered"], found["refused"]


@contextmanager
def limited_server() -> Iterator[LimitedServer]:
    """The server on a free port."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.limited_server"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield LimitedServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


async def _serve() -> None:
    server = await asyncio.start_server(_Server().talk, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
