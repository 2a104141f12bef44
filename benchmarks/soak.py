"""Kill the driver and its actors at random, over and over, and run the same command again until the run is done.

    make bench NAME=soak
    python -m benchmarks.soak [--requests 2000] [--kills 200] [--actors 2] [--seed 1]

One Ray cluster stands all the while; drivers are processes that join it by address, each a plain `avbatch run`. A kill
is a SIGKILL of the driver or of a random worker process, at a random moment: those that load are not spared. At its
end the soak compares manifest and pixel hashes with those of an undisturbed run, audits the run, and reads from the
journal of the procedural backend what was generated more than once. It exits with 1 if one of these does not hold:

- the manifest equals the undisturbed run's, pixel hashes included, and the audit finds nothing but temporary files of
  killed writers, which its repair removes;
- every request that was begun twice was begun by a worker that was killed, or whose driver was, while its shard was *in
  flight*: begun by a worker that was alive, and without a part; or begun by such a worker after its driver had died.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from abstractvision_batch.runs.manifest import list_parts, part_name
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.storage.names import TEMPORARY_PREFIX
from abstractvision_batch.verbs.audit import audit
from tests.support.journal import Begun, read_journal
from tests.support.ray_nodes import running_cluster, worker_pids

BATCH_SIZE, SHARD_SIZE = 2, 4
#: The last kill falls before this share of the requests is done, so that every kill finds a run.
LAST_KILL = 0.95
#: After its moment came by progress, a kill waits up to this long, in seconds: about what two shards take.
MAX_PAUSE_S = 0.5
#: Columns of when and by whom, and of whether a batch was taken apart to find what kills workers.
OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker", "environment_id", "reproducibility"}


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL, with the workers that were alive in that moment."""

    at: float
    """Seconds since the epoch."""
    target: str
    """`driver` or `actor`."""
    workers: frozenset[int]
    victim: int

    def ended(self, before: Begun, after: Begun) -> bool:
        """Whether it is why a request was begun again: its worker was killed, or was its driver's until that died."""
        if self.target == "driver":
            return before.pid in self.workers and self.at <= after.begun_at
        return before.pid == self.victim and before.begun_at <= self.at <= after.begun_at


@dataclass
class Soaked:
    """What happened, and which properties did not hold."""

    requests: int
    kills: list[Kill]
    exits: list[int]
    """Exit codes of drivers that ended by themselves; the last is that of the one that found nothing left to do."""
    wall_s: float
    begun: int = 0
    """Requests begun, repeats included."""
    in_flight: int = 0
    """Shards in flight at a kill, summed over the kills."""
    generated_twice: int = 0
    """Shards of which something was generated again, counted once for each kill that made it so."""
    orphaned_s: float = 0.0
    """Longest time after a driver's death at which one of its actors still began a request."""
    temporary_files: int = 0
    broken: list[str] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """The figures, one a line."""
        drivers = sum(kill.target == "driver" for kill in self.kills)
        yield f"kills            {len(self.kills)}: {drivers} of the driver, {len(self.kills) - drivers} of an actor"
        yield f"wall             {self.wall_s:.0f} s"
        yield f"drivers          {drivers + len(self.exits)}; exits of those that were not killed: {self.exits}"
        yield f"requests         {self.requests:,}; begun {self.begun:,} times"
        yield f"shards           {self.generated_twice} generated twice; {self.in_flight} were in flight at a kill"
        yield f"orphaned actors  began their last request {self.orphaned_s:.2f} s after their driver died"
        yield f"temporary files  {self.temporary_files} of killed writers, removed by audit --repair"
        yield from self.broken or ("audit clean; manifest and pixel hashes equal those of the undisturbed run",)


def soak(folder: Path, *, requests: int, kills: int, actors: int, delay_s: float, seed: int) -> Soaked:
    """Run the job to its end through `kills` kills.

    Args:
        folder: For the run, the undisturbed run and the journal.
        requests: Of the job; a multiple of the shard size.
        kills: SIGKILLs.
        actors: Of the job, one CPU each.
        delay_s: Seconds that a request takes.
        seed: Of what is killed when.
    """
    clock = time.monotonic()
    journal, output = folder / "journal.jsonl", folder / "run"
    undisturbed = _write_job(folder / "undisturbed.yaml", requests, output=folder / "undisturbed")
    subprocess.run(_command(undisturbed), check=True)
    with running_cluster(actors) as cluster:
        ray = {"executor": "ray", "address": cluster.address, "actors": actors}
        backend = {"delay_s": delay_s, "journal_path": str(journal)}
        job = _write_job(folder / "job.yaml", requests, output=output, execution=ray, backend=backend)
        made, exits = _run_through_kills(job, output, cluster, random.Random(seed), requests, kills)
    soaked = Soaked(requests, made, exits, time.monotonic() - clock)
    _compare(soaked, open_run(output), open_run(folder / "undisturbed"))
    _audit(soaked, output)
    _count_repeats(soaked, open_run(output), read_journal(journal))
    return soaked


def _write_job(path: Path, requests: int, *, output: Path, **sections: dict[str, Any]) -> Path:
    job = {
        "name": "soak",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", **sections.get("backend", {})},
        "prompts": {"source": [f"picture {number}" for number in range(requests)]},
        "params": {"width": 64, "height": 64, "seed": 7},
        "output": {"path": str(output)},
        "execution": {"batch_size": BATCH_SIZE, "shard_size": SHARD_SIZE, **sections.get("execution", {})},
    }
    path.write_text(yaml.safe_dump(job))
    return path


def _command(job: Path) -> list[str]:
    return [sys.executable, "-m", "abstractvision_batch", "run", str(job), "--quiet"]


def _run_through_kills(
    job: Path, output: Path, cluster: Any, rng: random.Random, requests: int, kills: int
) -> tuple[list[Kill], list[int]]:
    """Start drivers until one finds the run complete; the kills, and the exit codes of drivers that were not killed."""
    moments = sorted(rng.uniform(0, LAST_KILL * requests) for _ in range(kills))
    made: list[Kill] = []
    exits: list[int] = []
    driver = subprocess.Popen(_command(job))
    try:
        while True:
            due = len(made) < kills and _rows_done(output) >= moments[len(made)]
            if due:
                time.sleep(rng.uniform(0, MAX_PAUSE_S))
            if driver.poll() is not None:
                exits.append(driver.returncode)
                if driver.returncode in (0, 1, 2, 3):  # 4 says: run again
                    return made, exits
                driver = subprocess.Popen(_command(job))
            elif due and (kill := _kill_one(driver, worker_pids(list(cluster.worker_nodes)), rng)) is not None:
                made.append(kill)
                if len(made) % 20 == 0:
                    print(f"{len(made)} kills, {_rows_done(output):,} of {requests:,} requests done", flush=True)
                if kill.target == "driver":
                    driver.wait()
                    driver = subprocess.Popen(_command(job))
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()


def _kill_one(driver: subprocess.Popen[bytes], workers: Sequence[int], rng: random.Random) -> Kill | None:
    """SIGKILL the driver or one of the workers; None where there is no worker yet."""
    target = rng.choice(["driver", "actor"])
    if target == "actor" and not workers:
        return None
    victim = driver.pid if target == "driver" else rng.choice(workers)
    with suppress(ProcessLookupError):  # a worker of a driver that was killed a moment ago
        os.kill(victim, signal.SIGKILL)
    return Kill(time.time(), target, frozenset(workers), victim)


def _rows_done(output: Path) -> int:
    return SHARD_SIZE * sum(1 for _ in output.glob("manifest/*-a0.parquet"))


def _compare(soaked: Soaked, run: Run, undisturbed: Run) -> None:
    def rows(of: Run) -> pa.Table:
        manifest = of.table()
        return manifest.select([name for name in manifest.column_names if name not in OF_THE_MOMENT])

    if soaked.exits[-1] != 0:
        soaked.broken.append(f"the last driver ended with {soaked.exits[-1]}")
    if run.missing_shards():
        soaked.broken.append(f"{len(run.missing_shards())} shards have no part")
    elif rows(run) != rows(undisturbed):
        soaked.broken.append("the manifest is not that of the undisturbed run")


def _audit(soaked: Soaked, output: Path) -> None:
    left = [finding for finding in audit(output).findings if TEMPORARY_PREFIX not in finding.name]
    soaked.broken += [f"audit: {finding.kind}: {finding.message}" for finding in left]
    repaired = audit(output, repair=True, grace_s=0)
    soaked.temporary_files = len(repaired.removed)
    soaked.broken += [f"audit after repair: {finding.message}" for finding in audit(output).findings]


def _count_repeats(soaked: Soaked, run: Run, journal: Sequence[Begun]) -> None:
    """Count what was in flight at each kill, and attribute what was begun again to the kill that ended it."""
    manifest = run.table()
    shard_of = dict(zip(manifest["seed"].to_pylist(), manifest["shard"].to_pylist(), strict=True))
    done_at = {
        shard: (Path(run.url) / part_name(shard, 0)).stat().st_ctime  # when its name appeared
        for shard in list_parts(run.store)
    }
    begun: defaultdict[int, list[Begun]] = defaultdict(list)
    in_flight: set[tuple[int, int]] = set()
    for entry in journal:
        begun[entry.seed].append(entry)
        shard = shard_of[entry.seed]
        for number, kill in enumerate(soaked.kills):
            held = entry.pid in kill.workers and kill.at < done_at[shard]
            if held and (entry.begun_at <= kill.at or kill.target == "driver"):
                in_flight.add((number, shard))
                if entry.begun_at > kill.at:
                    soaked.orphaned_s = max(soaked.orphaned_s, entry.begun_at - kill.at)
    if set(begun) != set(shard_of):
        soaked.broken.append(f"{len(set(shard_of) - set(begun))} requests have a row and were never begun")
    repeats: set[tuple[int, int]] = set()
    for seed, entries in begun.items():
        for before, after in pairwise(entries):
            cause = next((n for n, kill in enumerate(soaked.kills) if kill.ended(before, after)), None)
            if cause is None or (cause, shard_of[seed]) not in in_flight:
                soaked.broken.append(
                    f"shard {shard_of[seed]} was generated again, and no kill ended it: {before}, {after}"
                )
            else:
                repeats.add((cause, shard_of[seed]))
    soaked.begun, soaked.in_flight, soaked.generated_twice = len(journal), len(in_flight), len(repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--delay-s", type=float, default=0.1, help="seconds that a request takes")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="avbatch-soak-"))
    soaked = soak(
        folder,
        requests=args.requests,
        kills=args.kills,
        actors=args.actors,
        delay_s=args.delay_s,
        seed=args.seed,
    )
    print("\n".join(soaked.describe()))
    if soaked.broken:
        sys.exit(f"{len(soaked.broken)} properties do not hold; the run is left in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
