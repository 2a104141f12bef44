"""How long planning takes and how much memory it needs: 10 thousand, 100 thousand and a million requests.

Each size is planned in a process of its own, once from as many prompts and once from a hundredth of them with a matrix
and samples, so that the peak of memory is that of the plan alone.

    python benchmarks/plan_million.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan

SIZES = (10_000, 100_000, 1_000_000)
SWEPT: dict[str, Any] = {"matrix": {"guidance_scale": [3, 5], "steps": [10, 20]}, "samples_per_prompt": 25}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]), swept=sys.argv[2] == "swept")))
        return
    print("  requests    prompts   seconds     CPU s  requests/s  peak RSS MiB   plan MB")
    for kind in ("plain", "swept"):
        for size in SIZES:
            command = [sys.executable, __file__, str(size), kind]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rate = figures["requests"] / figures["wall_s"]
            print(f"{figures['requests']:>10,} {figures['prompts']:>10,} {figures['wall_s']:>9.2f}", end=" ")
            print(f"{figures['cpu_s']:>9.2f} {rate:>11,.0f} {figures['peak_mib']:>13.0f} {figures['plan_mb']:>9.1f}")


def measure(requests: int, *, swept: bool) -> dict[str, float]:
    """Plan that many requests of a csv file with two columns that pass through."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = requests // 100 if swept else requests
        with (folder / "prompts.csv").open("w") as stream:
            stream.write("prompt,category,number\n")
            stream.writelines(
                f"a large red circle number {n} on a white background,shapes,{n}\n" for n in range(prompts)
            )
        job = {
            "name": "bench",
            "model": "avbatch/procedural",
            "backend": {"kind": "procedural"},
            "prompts": {"source": "prompts.csv"},
            "output": {"path": "run"},
            **(SWEPT if swept else {}),
        }
        loaded = load_job(job, base_dir=folder)
        wall, cpu = time.perf_counter(), time.process_time()
        summary = build_plan(loaded, folder)
        return {
            "requests": summary.requests,
            "prompts": summary.prompts,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "plan_mb": sum(file.size_bytes for file in summary.files) / 1e6,
        }


if __name__ == "__main__":
    main()
