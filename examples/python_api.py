"""Run a job from Python, and look at what it left.

python examples/python_api.py [FOLDER]
"""

from __future__ import annotations

import sys

import abstractvision_batch as avb


def main(folder: str) -> None:
    spec = {
        "name": "from-python",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": ["a fox", "a heron", "a lighthouse"]},
        "params": {"width": 64, "height": 64, "seed": 7},
        "samples_per_prompt": 2,
        "output": {"path": folder},
    }
    result = avb.run(spec, on_progress=lambda progress: print(f"{progress.phase}: {progress.done}/{progress.requests}"))
    print(f"{result.succeeded} succeeded, {result.failed} failed, in {result.path}")

    again = avb.run(spec)  # everything is done, so this generates nothing
    print(f"again: {again.generated} generated, {again.skipped} were done")

    for row, picture in avb.open_run(folder).images():
        print(row["prompt"], row["seed"], picture.size)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/from-python")
