"""What a run on a large cluster asks of its driver: the real driver on simulated workers, in a time of its own.

    python -m benchmarks.simulate_cluster                         10 million requests on 1,000 actors, with faults
    python -m benchmarks.simulate_cluster --actors 10 100 1000 10000 --shards-per-actor 20
    python -m benchmarks.simulate_cluster --ray 2                 what Ray adds to a call, on a real cluster

The pool, the queue, the spending guard, the progress tracker and the plan's summary are the program's own; only the
cluster is another (`simulated_cluster`). Processor time is the driver's alone, without the simulation's.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from abstractvision_batch.execute.context import RunContext
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.interrupts import Interrupts
from abstractvision_batch.execute.progress import Progress, ProgressTracker
from abstractvision_batch.execute.ray.pool import ActorPool
from abstractvision_batch.execute.spending import SpendingGuard
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.execution import build_context
from benchmarks.large_run import describe_job, write_prompts
from benchmarks.ray_costs import measure_ray
from tests.support.simulated_cluster import SimulatedCluster
from tests.support.simulated_nodes import Durations, Faults

GPUS_PER_NODE = 8
#: Shards that are planned for real; the plan of a simulation repeats them.
PLANNED_SHARDS = 64
FAULTS = Faults(actor_deaths_per_hour=0.05, node_losses_per_hour=0.05, stragglers=0.02)
#: What Ray takes of the driver for one message, in seconds: `--ray` measures it.
MESSAGE_S = 0.0004


@dataclass(slots=True)
class Simulated:
    """What came of one simulation; times in seconds, of the cluster's own time but for `driver_cpu_s`."""

    actors: int
    requests: int
    shards: int
    driver_cpu_s: float
    simulation_cpu_s: float
    took_s: float
    tail_s: float
    busy: float
    """Share of the workers' time, from the end of loading until the last shard was sent, in which they ran one."""
    useful: float
    """Share of their time until they were ended that went into committed shards."""
    fixed: float
    """The same of a cluster that is kept until the last shard is done, when there is no work for everyone."""
    lost_work: float
    """Share of it that went into others."""
    messages: dict[str, int]
    done_once: bool
    """Whether each shard was committed, and counted once, and generated with its variant's model."""
    loads: list[int]
    """How often each worker loaded each model that it had."""
    rss_mib: list[float] = field(default_factory=list)
    """Of this process, at the start and at every tenth of the shards."""

    @property
    def driver_messages(self) -> int:
        """What the driver sent or took for its shards, without what it looks at every so often."""
        return sum(self.messages.get(kind, 0) for kind in ("call", "answer", "worker start", "load", "question", "end"))

    @property
    def polls(self) -> int:
        """What it asks every so often, whatever the number of actors."""
        return self.messages.get("nodes", 0) + self.messages.get("board", 0)


def simulate(
    actors: int,
    requests: int,
    *,
    shard_size: int = 256,
    durations: Durations = Durations(),  # noqa: B008 - frozen
    faults: Faults = Faults(),  # noqa: B008 - frozen
    seed: int = 1,
    variants: int = 1,
) -> Simulated:
    """Run a job of so many requests on so many actors, 8 to a node; every so many-th shard is of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        context = make_context(Path(folder), actors=actors, requests=requests, shard_size=shard_size)
        return _simulate(context, actors, durations=durations, faults=faults, seed=seed, variants=variants)


def make_context(folder: Path, *, actors: int, requests: int, shard_size: int) -> RunContext:
    """What the driver tells its workers, with a plan of whole shards that repeats the first few."""
    shards = math.ceil(requests / shard_size)
    write_prompts(folder / "prompts.csv", min(shards, PLANNED_SHARDS) * shard_size)
    execution = {"executor": "ray", "actors": actors, "gpus_per_actor": 1, "cpus_per_actor": 1}
    sizes = {"shard_size": shard_size, "batch_size": 8, "budget": {"requests": 1 << 40}}
    job = describe_job(str(folder / "run"), execution={**execution, **sizes})
    loaded = load_job(job, base_dir=folder)
    (folder / "run").mkdir()
    planned = build_plan(loaded, folder / "run")
    return build_context(loaded, open_store(str(folder / "run")), _repeat(planned, shards, shard_size))


def _repeat(planned: PlanSummary, shards: int, shard_size: int) -> PlanSummary:
    (file,) = planned.files
    files = tuple(
        replace(file, first_shard=first, shards=min(file.shards, shards - first))
        for first in range(0, shards, file.shards)
    )
    return replace(planned, requests=shards * shard_size, shards=shards, files=files)


def _batches(shard: int, plan: PlanSummary) -> list[tuple[int, ...]]:
    indexes = range(shard * plan.shard_size, (shard + 1) * plan.shard_size)
    return [tuple(indexes[start : start + plan.batch_size]) for start in range(0, len(indexes), plan.batch_size)]


def _simulate(
    context: RunContext, actors: int, *, durations: Durations, faults: Faults, seed: int, variants: int
) -> Simulated:
    plan = context.plan
    cluster = SimulatedCluster(
        math.ceil(actors / GPUS_PER_NODE),
        {"CPU": 4.0 * GPUS_PER_NODE, "GPU": GPUS_PER_NODE},
        shard_rows=lambda shard: plan.shard_size,
        durations=durations,
        faults=faults,
        seed=seed,
    )
    rss_mib = [_rss_mib()]
    progress: list[Progress] = []

    def listen(now: Progress) -> None:
        progress[:] = [now]
        if now.shards_done >= len(rss_mib) * plan.shards / 10:
            rss_mib.append(_rss_mib())

    began = time.thread_time()
    guard = SpendingGuard(context.spec.execution, rows=dict.fromkeys(range(plan.shards), plan.shard_size))
    tracker = ProgressTracker(Progress(requests=plan.requests, shards=plan.shards), listen)
    ActorPool(
        cluster,
        [(context, range(number, plan.shards, variants)) for number in range(variants)],
        Control(Interrupts(), guard, tracker.on_rows, tracker.on_shard),
        split=lambda shard: _batches(shard, plan),  # the rows of the repeated file say that they are of another shard
    ).run()
    cpu_s = time.thread_time() - began
    once = progress[0].shards_done == plan.shards and progress[0].generated == plan.requests
    return Simulated(
        actors=actors,
        requests=plan.requests,
        shards=plan.shards,
        driver_cpu_s=cpu_s - cluster.own_cpu_s,
        simulation_cpu_s=cluster.own_cpu_s,
        took_s=cluster.last_commit,
        tail_s=cluster.last_commit - cluster.last_begun,
        busy=cluster.busy_when_sent_s / cluster.held_when_sent_s,
        useful=cluster.useful_s / cluster.held_s,
        fixed=cluster.useful_s / (actors * (cluster.last_commit - (cluster.first_loaded or 0.0))),
        lost_work=max(0.0, cluster.busy_s - cluster.useful_s) / cluster.held_s,
        messages=dict(cluster.messages),
        done_once=once
        and len(cluster.committed) == plan.shards
        and all(cluster.committed)
        and all(variant == shard % variants for shard, variant in enumerate(cluster.made_with)),
        loads=list(cluster.loads.values()),
        rss_mib=rss_mib,
    )


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


HEADINGS = (
    f"{'actors':>7} {'requests':>11} {'shards':>8} {'hours':>6} {'busy':>6} {'useful':>7} {'fixed':>6} "
    f"{'lost':>6} {'tail s':>7} {'msgs/shard':>10} {'msgs/s':>7} {'driver ms/shard':>15} {'core':>6} {'once':>5}"
)


def describe(one: Simulated, message_s: float) -> str:
    """One line of the table; the last but one is the share of a core, what Ray takes for the messages included."""
    messages = one.driver_messages + one.polls
    own_s = one.driver_cpu_s + messages * message_s
    shares = f"{one.busy:>6.1%} {one.useful:>7.1%} {one.fixed:>6.1%} {one.lost_work:>6.1%}"
    each = f"{one.driver_messages / one.shards:>10.2f} {messages / one.took_s:>7.1f}"
    return (
        f"{one.actors:>7,} {one.requests:>11,} {one.shards:>8,} {one.took_s / 3600:>6.2f} {shares} {one.tail_s:>7.0f} "
        f"{each} {one.driver_cpu_s / one.shards * 1000:>15.3f} {own_s / one.took_s:>6.1%} "
        f"{'yes' if one.done_once else 'NO':>5}"
    )


def describe_more(one: Simulated) -> Iterator[str]:
    """Memory over the run, and what the messages were."""
    yield f"RSS MiB, at the start and after each tenth: {' '.join(f'{mib:.0f}' for mib in one.rss_mib)}"
    yield f"messages: {', '.join(f'{number:,} {kind}' for kind, number in sorted(one.messages.items()))}"
    yield f"processor time: driver {one.driver_cpu_s:.1f} s, simulation {one.simulation_cpu_s:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1000])
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--shards-per-actor", type=int, help="in place of --requests")
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--shard-s", type=float, default=60.0, help="mean seconds of a shard")
    parser.add_argument("--message-us", type=float, default=MESSAGE_S * 1e6, help="what Ray takes for a message")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ray", type=int, metavar="ACTORS", help="measure a real cluster of so many actors instead")
    args = parser.parse_args()
    if args.ray:
        print("\n".join(measure_ray(args.ray)))
        return
    logging.disable(logging.WARNING)  # one for each worker and node that is lost
    print(HEADINGS)
    broken = False
    for actors in args.actors:
        requests = args.shards_per_actor * args.shard_size * actors if args.shards_per_actor else args.requests
        one = simulate(
            actors,
            requests,
            shard_size=args.shard_size,
            durations=Durations(shard_s=args.shard_s, message_s=args.message_us / 1e6),
            faults=Faults() if args.no_faults else FAULTS,
            seed=args.seed,
        )
        print(describe(one, args.message_us / 1e6), *describe_more(one), sep="\n", flush=True)
        broken = broken or not one.done_once
    if broken:
        sys.exit("not every shard was done once")


if __name__ == "__main__":
    main()
