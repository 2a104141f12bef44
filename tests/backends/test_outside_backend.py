"""A backend of another installed distribution works wherever one of ours does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.outside_backend import environment_with, install, install_acme

SPEC = """\
version: 1
name: acme
model: avbatch/procedural
backend: {kind: acme, hue: 120}
prompts: {source: [a fox, an owl]}
params: {width: 32, height: 32}
output: {path: out}
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Avbatch = Callable[..., Ended]


def child(folder: Path, environment: dict[str, str], *words: str) -> Ended:
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel") / "site"
    install_acme(target)
    return target


@pytest.fixture
def avbatch(installed: Path, tmp_path: Path) -> Avbatch:
    (tmp_path / "spec.yaml").write_text(SPEC)
    environment = {**environment_with(installed), "XDG_STATE_HOME": str(tmp_path / "state")}
    return lambda *words: child(tmp_path, environment, sys.executable, "-m", "abstractvision_batch", *words)


def test_a_job_runs_inline_on_a_backend_of_another_distribution_and_is_verified(
    avbatch: Avbatch, tmp_path: Path
) -> None:
    checked, ran, verified = avbatch("validate", "spec.yaml"), avbatch("run", "spec.yaml"), avbatch("verify", "out")

    assert (checked.code, ran.code, verified.code) == (0, 0, 0), (checked, ran, verified)
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["backend"] for row in rows] == ["acme", "acme"]
    assert Image.open(tmp_path / "out" / rows[0]["file_name"]).getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.ray
def test_a_job_runs_on_ray_on_a_backend_of_another_distribution(avbatch: Avbatch, tmp_path: Path) -> None:
    ran = avbatch("run", "spec.yaml", "--set", "execution.executor=ray", "--set", "execution.address=local")

    assert ran.code == 0, ran
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [(row["backend"], row["status"]) for row in rows] == [("acme", "ok")] * 2


def test_a_wrong_value_of_its_own_field_is_a_line_with_its_place(avbatch: Avbatch, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.replace("hue: 120", "hue: 400, huge: 1"))

    refused = avbatch("validate", "spec.yaml")

    assert refused.code == 2
    assert "spec.yaml:4:23: backend.hue: 400 is not an integer from 0 to 359\n" in refused.err
    assert "spec.yaml:4:33: backend.huge: unknown field (did you mean hue?)\n" in refused.err


def test_another_hue_is_another_run(avbatch: Avbatch) -> None:
    assert avbatch("run", "spec.yaml").code == 0

    refused = avbatch("run", "spec.yaml", "--set", "backend.hue=240")

    assert refused.code == 2
    assert "backend.acme.hue" in refused.err


def test_one_picture_is_generated_by_it(avbatch: Avbatch, tmp_path: Path) -> None:
    size = ("--width", "16", "--height", "16")

    made = avbatch("generate", "a fox", "--backend", "acme", "--model", "avbatch/procedural", *size, "-o", "fox.png")

    assert made.code == 0, made
    assert Image.open(tmp_path / "fox.png").getpixel((0, 0)) == (255, 0, 0)


def test_the_doctor_and_the_schema_know_it(avbatch: Avbatch) -> None:
    checks = {check["name"]: check for check in json.loads(avbatch("doctor", "--json").out)["checks"]}
    schema = json.loads(avbatch("schema").out)

    assert checks["backend acme"]["ok"]
    assert checks["backend acme"]["found"].startswith("acme-vision 1.0")
    assert schema["$defs"]["AcmeSection"]["properties"]["hue"]["maximum"] == 359


BROKEN = {
    "falls": ("raise RuntimeError('no driver')", "cannot be imported (RuntimeError: no driver)"),
    "ends": ("raise SystemExit(7)", "cannot be imported (SystemExit: 7)"),
    "other": ("Backend = dict", "is not a VisionBackend"),
}


def test_a_broken_backend_is_one_line_that_names_its_distribution_and_harms_no_other(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for kind, (code, _) in BROKEN.items():
        points = f"[abstractvision_batch.backends]\n{kind} = {kind}_module:Backend\n"
        install(site, f"{kind}-vision", {f"{kind}_module": code}, points)
    section = dedent("""
        from typing import Literal
        from abstractvision_batch.job.backend_section import BackendSection
        class Section(BackendSection):
            kind: Literal["diffusers"] = "diffusers"
    """)
    points = (
        "[abstractvision_batch.backends]\nclash = clash_module:Backend\ndiffusers = clash_module:Backend\n"
        "[abstractvision_batch.sections]\nclash = clash_module:Section\n"
    )
    install(site, "clash-vision", {"clash_module": section}, points)
    said = {kind: f"{kind} of {kind}-vision 1.0: {kind}_module:Backend {line}" for kind, (_, line) in BROKEN.items()}
    said["clash"] = "clash of clash-vision 1.0: clash_module:Section is the section of another kind"
    environment = environment_with(site)

    def run(*words: str) -> Ended:
        return child(tmp_path, environment, sys.executable, "-m", "abstractvision_batch", *words)

    for kind, line in said.items():
        (tmp_path / "spec.yaml").write_text(SPEC.replace("acme, hue: 120", kind))
        ended = run("run", "spec.yaml")
        assert ended.code == 3, ended
        assert ended.err.strip().endswith(f"backend {line}"), ended
        assert len(ended.err.strip().splitlines()) == 1
    (tmp_path / "spec.yaml").write_text(SPEC.replace("acme, hue: 120", "procedural"))
    assert run("run", "spec.yaml").code == 0
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").out)["checks"]}
    assert {kind for kind in (*said, "diffusers") if not checks[f"backend {kind}"]["ok"]} == {*said, "diffusers"}
    assert json.loads(run("schema").out)["title"] == "avbatch job spec"
