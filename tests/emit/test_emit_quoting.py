"""Whatever characters a word of the command has, the program gets it as it was given, from every target."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from abstractvision_batch.emit.crontab import CrontabOptions, emit_crontab
from abstractvision_batch.emit.emission import Emission
from abstractvision_batch.emit.github_actions import GithubOptions, emit_github_actions
from abstractvision_batch.emit.kuberay import RayOptions
from abstractvision_batch.emit.kubernetes import emit_kubernetes
from abstractvision_batch.emit.pods import PodOptions
from abstractvision_batch.emit.slurm import SlurmOptions, emit_slurm
from abstractvision_batch.emit.systemd import SystemdOptions, emit_systemd
from abstractvision_batch.emit.ticks import Ticks
from abstractvision_batch.job.load import load_job
from tests.support.emit.cron_line import cron_command
from tests.support.emit.unit_words import read_words

#: Characters that some shell, table, unit or document reads in its own way, and others.
TEXTS = st.text(
    st.sampled_from(list("ab 12'\"\\$`%#&;|<>(){}[]*?!~=:,-@^é\U0001f98a")), min_size=1, max_size=30
).filter(lambda text: "${{" not in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an odd name, a spec, and a program in the place of avbatch that notes its words."""
    folder = tmp_path_factory.mktemp("it's 100% $HOME")
    spec = {"name": "odd", "model": "avbatch/procedural", "backend": {"kind": "procedural"}}
    spec |= {"prompts": {"source": ["a"]}, "output": {"path": "s3://bucket/run"}}
    (folder / "job #1.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    (folder / "avbatch").write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$NOTED"\n', encoding="utf-8")
    (folder / "avbatch").chmod(0o755)
    return folder


def _run(command: list[str], folder: Path) -> list[str]:
    noted = folder / "noted"
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(command, check=True, cwd="/", env={"PATH": path, "HOME": "/", "NOTED": str(noted)}, timeout=60)
    return noted.read_text(encoding="utf-8").split("\0")[:-1]


def _from_crontab(emission: Emission, folder: Path) -> list[str]:
    (file,) = emit_crontab(emission, CrontabOptions(folder, folder))
    return _run(["sh", "-c", cron_command(file.text)], folder)


def _from_slurm(emission: Emission, folder: Path) -> list[str]:
    (file,) = emit_slurm(emission, SlurmOptions(work_dir=folder, bin_dir=folder))
    return _run(["bash", "-c", file.text], folder)


def _from_systemd(emission: Emission, folder: Path) -> list[str]:
    service, _ = emit_systemd(emission, SystemdOptions(Path("/srv/100% $HOME"), Path("/opt/100% $HOME")))
    (line,) = (line for line in service.text.splitlines() if line.startswith("ExecStart="))
    return read_words(line.removeprefix("ExecStart="))[1:]


def _from_kubernetes(emission: Emission, folder: Path) -> list[str]:
    (file,), _ = emit_kubernetes(emission, PodOptions("me/image"), RayOptions())
    data = next(yaml.safe_load_all(file.text))
    script = data["data"].get("run.sh") or base64.b64decode(data["binaryData"]["run.sh"]).decode()
    return _run(["bash", "-c", script], folder)


def _from_github(emission: Emission, folder: Path) -> list[str]:
    (file,) = emit_github_actions(emission, GithubOptions())
    step = yaml.safe_load(file.text)["jobs"]["run"]["steps"][-1]
    return _run(["bash", "-e", "-c", step["run"]], folder)


READERS = {
    "crontab": _from_crontab,
    "slurm": _from_slurm,
    "systemd": _from_systemd,
    "kubernetes": _from_kubernetes,
    "github-actions": _from_github,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@given(text=TEXTS)
@settings(max_examples=15, deadline=None)
def test_words_arrive_as_they_were_given(read: Callable[[Emission, Path], list[str]], folder: Path, text: str) -> None:
    override = f"description={json.dumps(text, ensure_ascii=False)}"
    loaded = load_job(folder / "job #1.yaml")
    job = replace(loaded, given=replace(loaded.given, overrides=(override,)))
    emission = Emission(job, ticks=Ticks("0 3 * * *", "UTC"), made_by=f"emit {text}\nexit")

    words = read(emission, folder)

    assert words[words.index("--set") + 1] == override
    assert words[-4:] == ["--cron", "0 3 * * *", "--timezone", "UTC"]


def test_the_command_that_made_it_cannot_leave_its_comment(folder: Path) -> None:
    emission = Emission(load_job(folder / "job #1.yaml"), made_by="avbatch emit\nrm -rf /\r\u2028x", ticks=None)

    for file in (*emit_slurm(emission, SlurmOptions()), *emit_systemd(emission, SystemdOptions())):
        assert "avbatch emit?rm -rf /??x" in file.text
