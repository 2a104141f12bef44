"""Requests per second through the OpenAI-compatible backend, by requests in flight, against a local server.

    python -m benchmarks.http_throughput [--requests 64] [--server-s 0.2]

The server takes `--server-s` seconds per image whatever else it does, as a service with room does, so that what is
measured is this side: building the call, HTTP, reading and checking the reply.
"""

from __future__ import annotations

import argparse
import time

from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, VisionRequest
from tests.support.openai_server import running_server


def measure(max_concurrency: int, count: int, server_s: float, side: int) -> tuple[float, float]:
    """Wall and CPU seconds of `count` requests; the CPU seconds are the server's too."""
    requests: list[VisionRequest] = [
        ImageGenerationRequest(f"a fox {n}", width=side, height=side, seed=n) for n in range(count)
    ]
    with running_server(delay_s=server_s) as server:
        config = OpenAICompatibleBackendConfig(server.base_url, max_concurrency=max_concurrency)
        with OpenAICompatibleVisionBackend(config) as backend:
            backend.generate_batch(requests[:1])
            wall, cpu = time.perf_counter(), time.process_time()
            items = backend.generate_batch(requests)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert all(isinstance(item, GeneratedAsset) for item in items)
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--server-s", type=float, default=0.2)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    args = parser.parse_args()
    print("in flight   requests/s   CPU ms/request (both sides)")
    for max_concurrency in (1, 4, 16, 64):
        count = min(args.requests, 8) if max_concurrency == 1 else args.requests
        wall, cpu = measure(max_concurrency, count, args.server_s, args.side)
        print(f"{max_concurrency:9}   {count / wall:10.1f}   {1000 * cpu / count:.1f}")


if __name__ == "__main__":
    main()
