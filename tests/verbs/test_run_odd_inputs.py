"""Inputs that never end, or that are far larger than they look, are one line at once."""

from __future__ import annotations

import gzip
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from abstractvision_batch.cli import main
from abstractvision_batch.errors import SpecError
from abstractvision_batch.prompts import compression
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

EDIT = {"task": "image_to_image", "params": {"strength": 0.5}, "samples_per_prompt": 1}


def make_odd(kind: str, folder: Path) -> str:
    path = folder / "odd"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            here = Path.cwd()
            os.chdir(folder)  # the names of sockets are short
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind("odd")
            os.chdir(here)
        case "link":
            path.symlink_to("/dev/zero")
        case _:
            return "/dev/zero"
    return str(path)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "device"])
@pytest.mark.parametrize("where", ["source", "file url", "image", "mask", "spec", "cards"])
def test_what_is_no_regular_file_is_one_line(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = make_odd(kind, tmp_path)
    (tmp_path / "a.png").write_bytes(PNG)
    row: dict[str, Any] = {"prompt": "a fox", "image": odd if where == "image" else "a.png"}
    row |= {"mask": odd} if where == "mask" else {}
    sections: dict[str, Any] = {**EDIT, "prompts": {"source": [row]}}
    if where in ("source", "file url"):
        url = f"file://{odd}" if where == "file url" else odd
        sections = {"prompts": {"source": url, "format": "txt"}}
    if where == "cards":
        sections = {"registry": {"paths": [odd]}}
    job = {**make_job(**sections)}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    assert main(["validate", odd if where == "spec" else "job.yaml"]) in (2, 4)
    assert "not a file" in capsys.readouterr().err


def test_a_lock_file_that_is_a_fifo_is_one_line(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job()))
    os.mkfifo(tmp_path / "job.lock.json")

    assert main(["run", str(tmp_path / "job.yaml"), "--locked"]) == 2
    assert "not a file" in capsys.readouterr().err


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ["p.txt.gz", "p.csv.gz", "p.tsv.gz", "p.jsonl.gz", "p.parquet.gz"])
@pytest.mark.parametrize("content", [b"\n", b"\0"], ids=["lines", "zeros"])
def test_a_gzip_bomb_is_one_line(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 18)  # reading millions of empty lines takes seconds
    path = tmp_path / name
    with gzip.open(path, "wb") as stream:
        stream.write(b"prompt\n" + content * (64 << 20))

    with pytest.raises(SpecError, match=r"unpacks to more than 100 times its size|NUL byte"):
        run(make_job(prompts={"source": str(path)}))


def test_a_zip_bomb_is_one_line(make_job: MakeJob, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p.txt", "\n" * (64 << 20))

    with pytest.raises(SpecError, match="unpacks to more than 100 times its size"):
        run(make_job(prompts={"source": f"zip://p.txt::file://{tmp_path}/p.zip"}))


def test_a_repetitive_file_that_is_no_bomb_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "p.txt.gz", "wb") as stream:
        stream.write(b"a fox\n" * 500_000)
    source = {"source": str(tmp_path / "p.txt.gz"), "limit": 3}

    assert run(make_job(prompts=source, samples_per_prompt=1)).succeeded == 3


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090"
    "7753de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
