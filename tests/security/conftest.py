"""A finished run with a failed row, copied into a guarded home for each case."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from abstractvision_batch.verbs.run import run
from tests.support.guard import SECRET, VARIABLE, Guard, listening, write_canaries


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 requests in 3 shards, of which those of one prompt failed."""
    folder = tmp_path_factory.mktemp("finished")
    job = {
        "version": 1,
        "name": "small",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", "fail_when": "dog"},
        "prompts": {"source": ["a fox", "a cat", "a dog"]},
        "params": {"width": 16, "height": 16, "seed": 7},
        "samples_per_prompt": 2,
        "output": {"path": str(folder / "run")},
        "execution": {"batch_size": 2, "shard_size": 2, "executor": "inline"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    run(folder / "job.yaml")
    return folder


@pytest.fixture
def guard(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """The guarded home; what it guards is checked at the end."""
    home, requests = tmp_path / "home/u", list[str]()
    write_canaries(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv(VARIABLE, SECRET)
    shutil.copytree(finished_run / "run", home / "data/run")
    shutil.copytree(finished_run / "run", home / "data/good")
    text = (finished_run / "job.yaml").read_text(encoding="utf-8")
    (home / "data/job.yaml").write_text(text.replace(str(finished_run), str(home / "data")), encoding="utf-8")
    with listening(requests) as url:
        guarded = Guard(home, url, requests)
        guarded.program.write_text(f"#!/bin/sh\ntouch {home}/data/started\n", encoding="utf-8")
        guarded.program.chmod(0o755)
        before = guarded.snapshot()
        yield guarded
        assert guarded.snapshot() == before
        assert requests == []
