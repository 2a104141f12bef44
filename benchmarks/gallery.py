"""The gallery at size: how large its files are, how long they take to write, and how fast the page answers.

Rows are synthetic, as a run with a tenth as many prompts and a matrix of 5 × 2 points has them; the page is opened from
file:// in Chromium, beside an empty page in the same run.

    make bench NAME=gallery ARGS="--rows 10000 1000000"
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from abstractvision_batch.job.load import load_job
from abstractvision_batch.report.gallery.writer import DataWriter, describe_for_page, put_page
from abstractvision_batch.storage.store import open_store
from tests.support.browser import Page, open_browser

ROWS_AT_ONCE = 16_384


def make_rows(start: int, count: int, prompts: int) -> pa.Table:
    """Return rows of a manifest; seeds and latencies differ in each."""
    index = np.arange(start, start + count)
    rng = np.random.default_rng(start)
    ids = [f"{value:026x}" for value in index]
    return pa.table(
        {
            "index": index,
            "request_id": ids,
            "prompt_id": pa.array([f"p{value % prompts}" for value in index]),
            "sample_index": index // prompts % 4,
            "shard": index // 256,
            "prompt": pa.array(
                [f"prompt {value % prompts}: a fox in the snow, evening, film grain" for value in index]
            ),
            "seed": rng.integers(0, 2**62, count),
            "guidance_scale": np.asarray([1, 3, 5, 7, 9], float)[index % 5],
            "steps": np.asarray([20, 30])[index % 2],
            "status": pa.array(["failed" if value % 97 == 0 else "ok" for value in index]),
            "error_kind": pa.array(["policy" if value % 97 == 0 else None for value in index], pa.string()),
            "error_message": pa.array(["refused" if value % 97 == 0 else None for value in index], pa.string()),
            "retry_round": np.zeros(count, np.int64),
            "file_name": pa.array([f"artifacts/{value // 256:05d}/{value:026x}.png" for value in index]),
            "latency_s": rng.random(count),
            "sha256": pa.array([f"{value:064x}" for value in index]),
            "params_json": pa.array(["{}"] * count),
        }
    )


def write(folder: Path, rows: int) -> float:
    """Write a gallery of synthetic rows; return the seconds."""
    started = time.perf_counter()
    store = open_store(str(folder))
    writer = DataWriter(store, set())
    for start in range(0, rows, ROWS_AT_ONCE):
        writer.add(make_rows(start, min(ROWS_AT_ONCE, rows - start), rows // 10))
    job = load_job(
        {"name": "synthetic", "model": "avbatch/procedural", "prompts": {"source": ["x"]}, "output": {"path": "x"}}
        | {"backend": {"kind": "procedural"}, "matrix": {"guidance_scale": [1, 3, 5, 7, 9], "steps": [20, 30]}}
    )
    about = {"run": "synthetic", "fingerprint": f"benchmark-{rows}", "created_at": "", "layout": "files"}
    writer.finish(describe_for_page({None: job.spec}, [], rows) | about)
    put_page(store)
    return time.perf_counter() - started


def timed(page: Page, script: str) -> float:
    """Milliseconds until a script has run and the page was painted."""
    return float(
        page.page.evaluate(
            f"""async () => {{
                const started = performance.now();
                {script};
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                return performance.now() - started;
            }}"""
        )
    )


def measure(browser: Any, folder: Path, rows: int) -> dict[str, Any]:
    """Write a gallery, open it, and use it."""
    write_s = write(folder, rows)
    data = folder / "gallery/data"
    empty = folder / "empty.html"
    empty.write_text("<!doctype html><html data-ready=yes><title>empty</title>")
    opened = {}
    for name, path in (("empty", empty), ("gallery", folder / "gallery/index.html")):
        page = Page(browser.new_page())
        started = time.perf_counter()
        page.open(path.as_uri())
        opened[name] = time.perf_counter() - started
    found = {
        "rows": rows,
        "write_s": round(write_s, 1),
        "columns_MB": round((data / "columns.js").stat().st_size / 1e6, 2),
        "rows_MB": round(sum(path.stat().st_size for path in data.glob("rows-*.js")) / 1e6, 1),
        "ready_s": round(opened["gallery"], 2),
        "empty_page_s": round(opened["empty"], 2),
        "ready_ratio": round(opened["gallery"] / opened["empty"], 1),
        "search_ms": round(timed(page, "STATE.search = 'prompt 7'; look()")),
        "sort_ms": round(timed(page, "STATE.search = ''; STATE.sort = 'latency_s'; look()")),
        "matrix_ms": round(
            timed(page, "STATE.sort = ''; STATE.across = 'guidance_scale'; STATE.down = 'steps'; look()")
        ),
        "heap_MB": round(page.page.evaluate("performance.memory.usedJSHeapSize") / 1e6),
        "faults": page.faults,
    }
    page.page.close()
    return found


def main() -> None:
    """Print one line of JSON for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    with open_browser() as browser:
        for rows in parser.parse_args().rows:
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(measure(browser, Path(folder), rows)), flush=True)


if __name__ == "__main__":
    main()
