"""What a run of many requests costs its driver besides generating: planning, resuming, counting, merging, auditing.

    python -m benchmarks.driver_costs --requests 10000000

Every step runs in a process of its own on the same run, which `large_run` makes, so that its peak of memory is its own.
The run lies in a local folder that is used as an object store: its requests are counted, and with ``--latency-ms`` each
takes so long.

Not covered: generating (`simulate_cluster`).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.job.load import Job, load_job
from abstractvision_batch.report.run_report import read_outcomes, write_report
from abstractvision_batch.runs.counts import count_rows
from abstractvision_batch.runs.manifest import list_parts, merge_manifest, missing_shards
from abstractvision_batch.runs.opened import Run
from abstractvision_batch.runs.plan_rows import count_shard_rows
from abstractvision_batch.runs.record import read_record
from abstractvision_batch.storage.store import Store, open_store
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import start_run
from benchmarks.large_run import describe_job, write_parts, write_prompts
from tests.support.counted_store import CountedFileSystem


@dataclass(frozen=True, slots=True)
class Place:
    """Where the run is, and its job."""

    folder: Path
    requests: int

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def open_store(self) -> Store:
        return open_store(f"counted://{self.run}")

    def open_run(self) -> Run:
        store = self.open_store()
        record = read_record(store)
        assert record is not None
        return Run(store, record)

    def load(self, **sections: Any) -> Job:
        return load_job(describe_job(f"counted://{self.run}", **sections), base_dir=self.folder)


def make_prompts(place: Place) -> None:
    write_prompts(place.folder / "prompts.csv", place.requests)


def plan_run(place: Place) -> None:
    start_run(place.load(), place.open_store())


def make_parts(place: Place, start: float, end: float) -> None:
    plan = place.open_run().plan
    write_parts(place.run, plan, range(int(plan.shards * start), int(plan.shards * end)))


def start(place: Place) -> None:
    """All that `avbatch run` does before the first shard; the budget of time is over before it."""
    result = run(place.load(execution={"budget": {"wall_s": 1e-9}}))
    assert result.stopped


def find_missing(place: Place) -> None:
    opened = place.open_run()
    missing_shards(opened.plan, list_parts(opened.store))


def count_planned(place: Place) -> None:
    opened = place.open_run()
    total = sum(count_shard_rows(opened.store.open, opened.plan, range(opened.plan.shards)))
    assert total == place.requests


def count(place: Place) -> None:
    opened = place.open_run()
    count_rows(opened.store, opened.plan)


def status(place: Place) -> None:
    opened = place.open_run()
    read_outcomes(opened.store, opened.plan)
    opened.missing_shards()


def merge(place: Place) -> None:
    opened = place.open_run()
    merge_manifest(opened.store, opened.plan)


def report(place: Place) -> None:
    opened = place.open_run()
    write_report(opened.store, opened.record.data)


def check(place: Place) -> None:
    found = audit(f"counted://{place.run}", fast=True).findings
    assert not found, found[:3]


STEPS: dict[str, Callable[[Place], object]] = {
    "(make prompts)": make_prompts,
    "plan and record": plan_run,
    "start, nothing done": start,
    "(make half of the parts)": lambda place: make_parts(place, 0, 0.5),
    "start, half done": start,
    "status, half done": status,
    "(make the other half)": lambda place: make_parts(place, 0.5, 1),
    "find missing shards": find_missing,
    "count planned rows": count_planned,
    "count rows, not merged": count,
    "merge": merge,
    "count rows, merged": count,
    "report": report,
    "audit --fast": check,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each request to the store")
    parser.add_argument("--folder", type=Path, help="an empty one, kept; default: a temporary one")
    parser.add_argument("--step", choices=STEPS, help="run one step in this process and print its figures as JSON")
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(args.step, Place(args.folder, args.requests), args.latency_ms / 1000)))
        return
    folder = args.folder or Path(tempfile.mkdtemp(prefix="avbatch-driver-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{args.requests:,} requests; a request to the store takes {args.latency_ms:g} ms")
    print(f"{'step':<26} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9}  requests to the store")
    for step in STEPS:
        options = ["--requests", str(args.requests), "--latency-ms", str(args.latency_ms), "--folder", str(folder)]
        command = [sys.executable, "-m", "benchmarks.driver_costs", *options, "--step", step]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(describe(step, json.loads(done.stdout.splitlines()[-1])), flush=True)
    print(describe_sizes(Place(folder, args.requests)))
    if args.folder is None:
        shutil.rmtree(folder)


def measure(step: str, place: Place, latency_s: float) -> dict[str, Any]:
    """Run one step; times in seconds, memory in MiB."""
    CountedFileSystem.latency_s = latency_s
    wall, cpu = time.perf_counter(), time.process_time()
    STEPS[step](place)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "requests": dict(sorted(CountedFileSystem.requests.items())),
    }


def describe(step: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    requests = ", ".join(f"{number:,} {kind}" for kind, number in figures["requests"].items())
    times = f"{figures['wall_s']:>8.1f} {figures['cpu_s']:>8.1f} {figures['peak_mib']:>9.0f}"
    return f"{step:<26} {times}  {requests if not step.startswith('(') else ''}"


def describe_sizes(place: Place) -> str:
    """What lies in the run's folder."""
    plan = place.open_run().plan
    sizes = {
        "plan": sum(file.size_bytes for file in plan.files),
        "parts": sum(path.stat().st_size for path in (place.run / "manifest").iterdir()),
        "manifest": (place.run / "manifest.parquet").stat().st_size,
    }
    each = ", ".join(f"{name} {size / place.requests:.0f}" for name, size in sizes.items())
    record_bytes = (place.run / "run.json").stat().st_size
    return (
        f"{plan.shards:,} shards of {plan.shard_size}, {len(plan.files)} plan files, run.json {record_bytes:,} bytes\n"
        f"bytes per request: {each}"
    )


if __name__ == "__main__":
    main()
