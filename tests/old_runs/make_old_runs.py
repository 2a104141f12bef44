"""Makes the old runs of one version: small jobs, finished and half-finished, that every later version has to open.

    unshare --uts sh -c 'hostname avbatch && cd / && PYTHONPATH=CHECKOUT python .../make_old_runs.py v0_1'

`CHECKOUT` is the working tree of the version that makes them, at its release; the folder is written next to this file.
Jobs run in `/srv/job`, under the host name `avbatch`, so that no run says on whose machine it was made. Each folder has

    job.yaml        the spec, and the files that it names
    expected.json   what its requests are and their pixels, as the version made them
    <state>.tar.xz  the run (`run/…`, `runs/<date>/…`) as it was left: `done`, `half`, and others by name

A half-finished run is a finished one without what its last steps wrote: shard 1 has neither part nor artifacts, the
last shard has artifacts but no part, and nothing is merged. That is what a crash leaves (`tests/crash`).
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.version import __version__
from tests.support.openai_server import running_server

WORK = Path("/srv/job")
#: Where the spec of a server's job says that it is; the discard port, where nobody answers.
NOWHERE = "http://127.0.0.1:9/v1"
#: Of one shard more than `cut` takes away, and small.
SMALL = {"batch_size": 2, "shard_size": 2}
PROCEDURAL = {"model": "avbatch/procedural", "backend": {"kind": "procedural"}}
SIZE = {"width": 32, "height": 24, "seed": 7}
ANIMALS = ["a fox", "a cat", "a dog", "an owl", "a bee", "a hen"]
#: Named by URL, because a plan has absolute paths of local inputs; `tests/old_runs/runs.py` puts them there.
PICTURES = "memory://old-runs"

CARDS = """\
id: old/pictures
license: apache-2.0
tasks:
  text_to_image:
    params:
      negative_prompt: {}
      width: {default: 32, min: 8, max: 64}
      height: {default: 24, min: 8, max: 64}
      steps: {default: 4, min: 1, max: 50}
      guidance_scale: {default: 5.0, min: 0, max: 20}
backends:
  procedural: {batch_size: 2}
  openai: {batch_size: 2}
"""
ROWS = """\
id,Prompt text,kind,code,count,steps,note,50%,naïve column,score
one,a fox,animal,007,1,,"two
lines",,ü,0.5
two,a cat,animal,1e3,2,5,"with ""quotes"", and commas",x,,nan
three,a lamp,thing,true,3,,,,é,
four,a dog,animal,0x1F,04,6,  spaces  ,,,1
five,an owl,animal,,5,,NULL,,,-0.0
six,a bee,animal,2026-11-01,6,,,y,ß,1e-7
seven,"a hen, brown",animal,１２,7,8,{{ kind }},,,12345678901234567890
"""
JSONL = [
    {"prompt": "a fox", "tags": ["red", "quick"], "at": {"x": 1, "y": None}, "n": 1},
    {"prompt": "a cat", "tags": [], "at": {"x": 2, "y": "b"}, "n": 2.5},
    {"prompt": "ein Fuchs 🦊", "tags": None, "at": None, "n": None, "seed": 4294967},
]


def jobs() -> dict[str, dict[str, Any]]:
    """The specs by name, without what is the same in most of them."""
    edits = [{"prompt": prompt, "image": f"{PICTURES}/wide.png"} for prompt in ANIMALS]
    served = {"kind": "openai", "base_url": NOWHERE, "served_model": "pictures", "retries": 0}
    return {
        "files": {"prompts": {"source": "prompts.txt"}, "output": {"embed_metadata": True}},
        "webdataset": {"prompts": {"source": "prompts.tsv"}, "output": {"layout": "webdataset"}},
        "parquet": {
            "prompts": {"source": "prompts.jsonl.gz"},
            "samples_per_prompt": 2,
            "output": {"layout": "parquet", "image_format": "webp"},
        },
        "retried": {"backend": {"kind": "procedural", "fail_when": "cat|bee"}},
        "extended": {"samples_per_prompt": 2, "matrix": {"guidance_scale": [5, 7]}, "prompts": {"source": ANIMALS[:4]}},
        "locked": {"prompts": {"source": "prompts.txt"}},
        "scheduled": {
            "description": "Of {{ date }}.",
            "params": {**SIZE, "seed": "{{ date | replace('-', '') }}"},
            "output": {"path": "runs/{{ date }}"},
        },
        "budget": {"execution": {**SMALL, "budget": {"requests": 4}}},
        "server-auto": {
            "model": "old/pictures",
            "backend": served,
            "registry": {"paths": ["cards.yaml"]},
            "params": {**SIZE, "negative_prompt": "blurry"},
        },
        "server-extended": {
            "model": "old/pictures",
            "backend": {**served, "request_shape": "extended", "price": {"request_usd": 0.01}},
            "registry": {"paths": ["cards.yaml"]},
        },
        "server-openai": {
            "model": "old/pictures",
            "backend": {**served, "request_shape": "openai"},
            "registry": {"paths": ["cards.yaml"]},
            "params": {"width": 32, "height": 24},
        },
        "stretched": {
            "task": "image_to_image",
            "prompts": {"source": edits},
            "params": {"width": 32, "height": 32, "seed": 7},
        },
        "one-side": {"task": "image_to_image", "prompts": {"source": edits}, "params": {"width": 24, "seed": 7}},
        "masked": {
            "task": "image_to_image",
            "prompts": {"source": [{**row, "mask": f"{PICTURES}/mask.png"} for row in edits]},
            "params": {"seed": 7, "strength": 0.8},
        },
        "local-inputs": {"task": "image_to_image", "prompts": {"source": "prompts.csv"}, "params": {"seed": 7}},
        "views": {
            "task": "multi_view_image",
            "prompts": {"source": ANIMALS[:3]},
            "samples_per_prompt": 2,
            "params": {**SIZE, "extra": {"angles": ["front", "back"]}},
        },
        "sweep": {
            "prompts": {"source": ANIMALS[:2]},
            "params": {"seed": 7},
            "matrix": {"guidance_scale": [3, 7.5], "negative_prompt": ["", "blurry"]},
            "zip": {"width": [16, 24], "height": [24, 16]},
        },
        "seeds": {"prompts": {"source": ANIMALS[:2]}, "matrix": {"seed": [1, 2, 3]}},
        "rows": {
            "prompts": {
                "source": "prompts.csv",
                "fields": {"prompt": "Prompt text"},
                "template": "{{ kind | upper }} {{ id }}: {{ code or 'none' }}",
                "where": "kind == 'animal'",
                "shuffle": 5,
                "limit": 6,
                "drop": ["note"],
                "rename": {"count": "how_many"},
            },
        },
        "video": {
            "task": "text_to_video",
            "params": {"width": 32, "height": 32, "num_frames": 3, "fps": 4, "seed": 7},
        },
        "shapes64": {
            "model": "avbatch/shapes64",
            "backend": {"kind": "diffusers", "device": "cpu", "threads": 1},
            "prompts": {"source": ["a large red circle on a white background", "a small blue square on the left"]},
            "samples_per_prompt": 3,
            "params": {"steps": 2, "seed": 7},
        },
    }


def whole_spec(name: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with what it does not say itself."""
    output = {"path": "run", "embed_metadata": False, **sections.get("output", {})}
    common = {"version": 1, "name": name, **PROCEDURAL, "prompts": {"source": ANIMALS}, "params": SIZE}
    return {**common, "execution": SMALL, **sections, "output": output}


def avbatch(*arguments: str, ends_with: int = 0) -> None:
    """Run a command in this process."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    if result.exit_code != ends_with:
        raise SystemExit(f"avbatch {' '.join(arguments)}: exit {result.exit_code}\n{result.output}")


def draw_pictures(folder: Path) -> None:
    """Write a picture three times as wide as high, with a circle in it, and a mask of its middle."""
    picture = Image.new("RGB", (48, 16), "navy")
    ImageDraw.Draw(picture).ellipse((18, 2, 30, 14), fill="orange")
    picture.save(folder / "wide.png")
    mask = Image.new("L", (48, 16), 0)
    ImageDraw.Draw(mask).rectangle((16, 0, 31, 15), fill=255)
    mask.save(folder / "mask.png")


def write_job(folder: Path, name: str, spec: Mapping[str, Any]) -> None:
    """Write a spec and the files that it names."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True), encoding="utf-8")
    if "registry" in spec:
        (folder / "cards.yaml").write_text(CARDS, encoding="utf-8")
    if name in ("stretched", "one-side", "masked", "local-inputs"):
        draw_pictures(folder)
        for file in folder.glob("*.png"):
            fsspec.filesystem("memory").pipe_file(f"/old-runs/{file.name}", file.read_bytes())
    if name in ("files", "locked"):
        (folder / "prompts.txt").write_text("\n".join(ANIMALS) + "\n", encoding="utf-8")
    if name == "webdataset":
        lines = ["prompt\tCategory", *(f"{animal}\tanimals {n}" for n, animal in enumerate(ANIMALS))]
        (folder / "prompts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if name == "parquet":
        lines = [json.dumps(row, ensure_ascii=False) for row in JSONL]
        (folder / "prompts.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    if name == "rows":
        (folder / "prompts.csv").write_text(ROWS, encoding="utf-8")
    if name == "local-inputs":
        lines = ["prompt,image,mask", *(f"{animal},wide.png,mask.png" for animal in ANIMALS)]
        (folder / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def cut(run: Path) -> None:
    """Take back what a run wrote last."""
    for name in ("manifest.parquet", "metadata.parquet", "README.md", "index.json"):
        (run / name).unlink(missing_ok=True)
    for name in ("report", "gallery"):
        shutil.rmtree(run / name, ignore_errors=True)
    last = max(int(part.name.split("-")[0]) for part in (run / "manifest").iterdir())
    for shard in (1, last):
        for part in (run / "manifest").glob(f"{shard:05d}-*"):
            part.unlink()
    for lost in (run / "artifacts").glob("00001*"):
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()


def keep(state: str, *places: str) -> None:
    """Put what is in the job's folder under these names into the state's archive."""
    files = sorted(file for place in places for file in [Path(place), *Path(place).rglob("*")] if file.is_file())
    with tarfile.open(f"{state}.tar.xz", "w:xz") as archive:
        for file in files:
            if file.parent.name != "report":  # as large as all else, and made again from what is there
                archive.add(file, filter=_nobodys)


def _nobodys(file: tarfile.TarInfo) -> tarfile.TarInfo:
    file.uid = file.gid = 0
    file.uname = file.gname = ""
    file.mode = 0o644
    return file


def scrub(run: str, server_url: str | None = None) -> None:
    """Replace the port of the server, which nobody can ask for again, and the program's place."""
    for file in Path(run).rglob("*"):
        if file.suffix in (".json", ".md") and file.parent.name != "environments":
            text = file.read_text(encoding="utf-8")
            if server_url is not None:
                text = text.replace(server_url, NOWHERE)
            if file.name == "run.json" or file.parent.name == "extensions":
                data = json.loads(text)
                data["environment"] |= {"argv": ["avbatch"], "git_commit": None, "git_dirty": None}
                text = json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
            file.write_text(text, encoding="utf-8")


def expect(run: str, *, portable: bool) -> None:
    """Write down what the requests of a finished run are, and their pixels."""
    rows = pq.read_table(Path(run) / "manifest.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}, rows
    shown = ("prompt_id", "sample_index", "prompt", "seed", "media_width", "media_height", "pixel_sha256")
    expected = {
        "made_by": __version__,
        "fingerprint": json.loads((Path(run) / "run.json").read_text())["fingerprint"],
        # Another processor or library may round otherwise: its pictures are then close and not equal.
        "portable": portable,
        "rows": {row["request_id"]: {name: row[name] for name in shown} for row in rows},
    }
    if extensions := sorted(Path(run).glob("extensions/*.json")):
        expected["fingerprint"] = json.loads(extensions[-1].read_text())["fingerprint"]
    Path("expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make_plain(name: str, *settings: str, server_url: str | None = None) -> None:
    """Make a finished and a half-finished run."""
    avbatch("run", "job.yaml", "-q", *settings)
    scrub("run", server_url)
    expect("run", portable=name not in ("video", "shapes64"))
    keep("done", "run")
    cut(Path("run"))
    keep("half", "run")


def make_files(name: str) -> None:
    """Make also a run of the same plan elsewhere."""
    avbatch("run", "job.yaml", "-q")
    avbatch("rerun", "run", "-o", "again", "-q")
    scrub("again")
    keep("rerun", "again")
    shutil.rmtree("run")
    make_plain(name)


def make_local_inputs(name: str) -> None:
    """Make a run whose inputs stand next to its spec, as on a cluster that a job is sent to."""
    os.environ["AVBATCH_PACKAGED"] = "1"
    make_plain(name)
    del os.environ["AVBATCH_PACKAGED"]


def make_server(name: str) -> None:
    """Make a run on a server."""
    with running_server() as server:
        make_plain(name, "--set", f"backend.base_url={server.base_url}", server_url=server.base_url)


def make_retried(name: str) -> None:
    """Make a run with failed rows, one that was retried with some success, and one that is not done besides."""
    avbatch("run", "job.yaml", "-q", "--set", "backend.fail_when=null", "--set", "output.path=whole")
    expect("whole", portable=True)
    avbatch("run", "job.yaml", "-q", ends_with=1)
    scrub("run")
    keep("failed", "run")
    avbatch("retry", "run", "-q", "--set", "backend.fail_when=bee", ends_with=1)
    keep("retried", "run")
    cut(Path("run"))
    keep("half", "run")


def make_extended(name: str) -> None:
    """Make a run, the same run extended, and that without some shards."""
    spec = yaml.safe_load(Path("job.yaml").read_text(encoding="utf-8"))
    del spec["matrix"]
    before = {**spec, "prompts": {"source": ANIMALS[:3]}, "params": {**SIZE, "guidance_scale": 5}}
    Path("before.yaml").write_text(yaml.safe_dump(before, sort_keys=False), encoding="utf-8")
    avbatch("run", "before.yaml", "-q")
    scrub("run")
    keep("before", "run")
    avbatch("run", "job.yaml", "--extend", "-q")
    scrub("run")
    expect("run", portable=True)
    keep("done", "run")
    cut(Path("run"))
    keep("half", "run")


def make_locked(name: str) -> None:
    """Make a lock file and the runs that it allows."""
    avbatch("lock", "job.yaml")
    make_plain(name, "--locked")


def make_scheduled(name: str) -> None:
    """Make the runs of two days, one of a scheduler, and the scheduler's state."""
    avbatch("backfill", "job.yaml", "--from", "2026-11-01", "--to", "2026-11-02")
    spec = yaml.safe_load(Path("job.yaml").read_text(encoding="utf-8"))
    ticks = {**spec, "name": "ticks", "params": SIZE, "output": {"path": "ticks/{{ scheduled_at }}"}}
    Path("ticks.yaml").write_text(yaml.safe_dump(ticks, sort_keys=False), encoding="utf-8")
    avbatch("schedule", "ticks.yaml", "--cron", "* * * * * *", "--ticks", "1")
    scrub("runs")
    scrub("ticks")
    expect("runs/2026-11-02", portable=True)
    keep("done", "runs", "ticks", "ticks.schedule.json")
    cut(Path("runs/2026-11-02"))
    keep("half", "runs", "ticks", "ticks.schedule.json")


def make_budget(name: str) -> None:
    """Make a run that its budget stopped, and the whole of it."""
    avbatch("run", "job.yaml", "-q", "--set", "execution.budget.requests=100")
    scrub("run")
    expect("run", portable=True)
    keep("done", "run")
    shutil.rmtree("run")
    avbatch("run", "job.yaml", "-q", ends_with=1)
    scrub("run")
    keep("half", "run")


MAKERS: dict[str, Callable[[str], None]] = {
    "files": make_files,
    "local-inputs": make_local_inputs,
    "retried": make_retried,
    "extended": make_extended,
    "locked": make_locked,
    "scheduled": make_scheduled,
    "budget": make_budget,
    "server-auto": make_server,
    "server-extended": make_server,
    "server-openai": make_server,
}


def main(version: str) -> None:
    """Make all runs of a version in a folder of its name, which must not be there yet."""
    target = Path(__file__).resolve().parent / version
    if target.exists() or WORK.exists() or socket.gethostname() != "avbatch":
        raise SystemExit(f"{target} or {WORK} is there already, or the host's name is not avbatch (see the docstring)")
    sys.argv = ["avbatch"]
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        for name, sections in jobs().items():
            write_job(WORK / name, name, whole_spec(name, sections))
            os.chdir(WORK / name)
            MAKERS.get(name, make_plain)(name)
            kept = [file for file in Path().iterdir() if file.is_file() and not file.name.startswith("ticks.schedule")]
            (target / name).mkdir(parents=True)
            for file in kept:
                shutil.copyfile(file, target / name / file.name)
    finally:
        os.chdir("/")
        shutil.rmtree(WORK)


if __name__ == "__main__":
    main(sys.argv[1])
