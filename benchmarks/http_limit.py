"""How much of a server's capacity is used that refuses, with 429, everything above k at once; k changes by the second.

    python -m benchmarks.http_limit [--each-s 5] [--service-s 0.15] [--repeat 1]

Every line is measured against the same server in the same run. The ideal is the same backend, told k. The others find
it out: one backend; three Ray actors that share the limit; three that each have their own; and whole jobs (`avbatch
run`, manifest, files and all), in one process and on two Ray actors. Every request has to end well.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend
from abstractvision_batch.backends.shared_limit import Allowance, Report, SharedLimit
from abstractvision_batch.execute.ray.ray_cluster import limit_client
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, VisionRequest
from abstractvision_batch.verbs.run import run
from benchmarks.limited_server import LimitedServer, Schedule, limited_server

CAPACITIES = (4, 16, 8, 32, 3)
MAX_CONCURRENCY = 48
BATCH = 48


class Feeder:
    """A worker: batch after batch on two threads, as executors do, until the schedule is over."""

    def __init__(self, url: str) -> None:
        config = OpenAICompatibleBackendConfig(f"{url}/v1", max_concurrency=MAX_CONCURRENCY)
        self._backend = OpenAICompatibleVisionBackend(config)

    def share(self, limit: Any, name: str) -> None:
        self._backend.share_limit(limit_client(limit), name)

    def tell(self, schedule: Schedule) -> None:
        async def exchange(report: Report) -> Allowance:
            await asyncio.sleep(0)
            return Allowance(schedule.capacity(), 0, pause_s=0.0, refusing=0, refusing_s=0.0, report_in_s=0.002)

        self._backend.share_limit(exchange, "told")

    def warm_up(self) -> None:
        self._backend.preload()

    def feed(self, schedule: Schedule) -> tuple[int, int]:
        """Requests that ended well, and that did not."""
        outcomes: list[bool] = []
        requests: list[VisionRequest] = [ImageGenerationRequest("a fox", width=16, height=16) for _ in range(BATCH)]

        def lane() -> None:
            while time.time() < schedule.ends_at:
                outcomes.extend(isinstance(item, GeneratedAsset) for item in self._backend.generate_batch(requests))

        lanes = [threading.Thread(target=lane) for _ in range(2)]
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
        self._backend.close()
        return outcomes.count(True), outcomes.count(False)


@dataclass(frozen=True)
class Bench:
    """The ways to ask, each of which returns (ended well, lost)."""

    server: LimitedServer
    each_s: float
    service_s: float

    def begin(self, after_s: float = 0.2) -> Schedule:
        schedule = Schedule(CAPACITIES, self.each_s, time.time() + after_s, self.service_s)
        self.server.start(schedule)
        time.sleep(after_s)
        return schedule

    def told(self) -> tuple[int, int]:
        feeder = Feeder(self.server.url)
        schedule = self.begin()
        feeder.tell(schedule)
        return feeder.feed(schedule)

    def alone(self) -> tuple[int, int]:
        feeder = Feeder(self.server.url)
        feeder.warm_up()
        return feeder.feed(self.begin())

    def three_actors(self, *, shared: bool) -> tuple[int, int]:
        actors = [ray.remote(Feeder).options(num_cpus=0).remote(self.server.url) for _ in range(3)]
        limit = ray.remote(SharedLimit).options(num_cpus=0).remote(MAX_CONCURRENCY)
        if shared:
            ray.get([actor.share.remote(limit, str(number)) for number, actor in enumerate(actors)])
        ray.get([actor.warm_up.remote() for actor in actors])
        schedule = self.begin()
        outcomes = ray.get([actor.feed.remote(schedule) for actor in actors])
        for handle in (*actors, limit):
            ray.kill(handle)
        return sum(well for well, _ in outcomes), sum(lost for _, lost in outcomes)

    def whole_job(self, **execution: Any) -> tuple[int, int]:
        """As many requests as the schedule has room for, and some; timed from the first generation."""
        requests = int(1.1 * sum(CAPACITIES) * self.each_s / self.service_s)
        with tempfile.TemporaryDirectory() as folder:
            job = {
                "name": "bench",
                "model": "avbatch/procedural",
                "backend": {"kind": "openai", "base_url": f"{self.server.url}/v1", "max_concurrency": MAX_CONCURRENCY},
                "prompts": {"source": ["a fox"]},
                "params": {"width": 16, "height": 16, "seed": 1},
                "samples_per_prompt": requests,
                "output": {"path": str(Path(folder) / "run")},
                "execution": execution,
            }
            # Planning and starting workers is not what is measured: the schedule begins with the first request.
            self.server.start(Schedule(CAPACITIES, self.each_s, -1.0, self.service_s))
            result = run(job)
        return result.succeeded, result.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each-s", type=float, default=5.0, help="seconds of each capacity")
    parser.add_argument("--service-s", type=float, default=0.15, help="seconds of a request")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with limited_server() as server:
        bench = Bench(server, args.each_s, args.service_s)
        ways: dict[str, Callable[[], tuple[int, int]]] = {
            "told k (the ideal)": bench.told,
            "one backend": bench.alone,
            "three actors, one limit": lambda: bench.three_actors(shared=True),
            "three actors, a limit each": lambda: bench.three_actors(shared=False),
            "avbatch run, inline": lambda: bench.whole_job(executor="inline"),
            "avbatch run, two Ray actors": lambda: bench.whole_job(executor="ray", actors=2, cpus_per_actor=0.5),
        }
        seconds = args.each_s * len(CAPACITIES)
        print(f"k = {', '.join(map(str, CAPACITIES))}, {args.each_s:g} s each; a request takes {args.service_s:g} s")
        print(f"by arithmetic: {sum(CAPACITIES) * args.each_s / args.service_s / seconds:.1f} requests/s")
        print(f"{'':28} requests/s   of ideal   429s per answer    lost   answers by k")
        for _ in range(args.repeat):
            ideal = 0.0
            for name, ask in ways.items():
                well, lost = ask()
                answered, refused = server.counts()
                assert well == sum(answered), (well, answered)
                rate = sum(answered[:-1]) / seconds
                ideal = ideal or rate
                share = sum(refused[:-1]) / max(1, sum(answered[:-1]))
                by_k = " ".join(map(str, answered[:-1]))
                print(f"{name:28} {rate:10.1f}   {rate / ideal:8.3f}   {share:15.3f}   {lost:5}   {by_k}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
