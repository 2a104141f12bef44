"""Every spec of the repository is valid, the cheap ones run, and so do the example scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def run_script(name: str, *args: str | Path, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def run_spec(name: str, output: Path, *overrides: str) -> None:
    result = run(load_job(ROOT / "specs" / name, overrides=[f"output.path={output}", *overrides]))
    assert result.exit_code == 0, open_run(output).table()["error_message"].to_pylist()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.stem != "source-run"], ids=lambda path: path.stem)
def test_a_spec_is_valid_with_its_prompts(spec: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(spec), "--at", "2026-11-21", "--json"])

    answer = json.loads(result.stdout)
    assert answer["ok"], answer["problems"]
    assert 0 < answer["requests"] <= 64


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_a_spec_names_its_schema_for_editors_and_an_output_of_its_own(spec: Path) -> None:
    first = spec.read_text(encoding="utf-8").splitlines()[0]
    loaded = load_job(spec, scheduled_at=datetime(2026, 11, 21, tzinfo=UTC))

    assert (spec.parent / first.removeprefix("# yaml-language-server: $schema=")).is_file()
    assert loaded.spec.name == spec.stem
    assert loaded.spec.output.path in (f"runs/{spec.stem}", f"runs/{spec.stem}/2026-11-21")


def test_the_procedural_spec_passes_the_columns_of_its_prompts_through(tmp_path: Path) -> None:
    run_spec("procedural.yaml", tmp_path)

    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert len(rows) == 8 * 4 * 2
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["Challenge"] for row in rows if row["prompt"].startswith("a heron")} == {"Fine detail"}
    assert {(row["guidance_scale"], row["steps"]) for row in rows} == {(2, 10), (2, 30), (7, 10), (7, 30)}


@pytest.mark.model
def test_the_spec_on_another_run_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("layout-webdataset", "source-run"):
        assert run(load_job(ROOT / "specs" / f"{name}.yaml", overrides=["prompts.limit=2"])).exit_code == 0

    rows = open_run("runs/source-run").table().to_pylist()
    assert all(row["prompt"].endswith(", slowly turning") and row["content_type"] == "video/mp4" for row in rows)


@pytest.mark.model
def test_the_demo_draws_the_embedded_model_s_pictures(tmp_path: Path) -> None:
    run_spec("demo.yaml", tmp_path, "prompts.limit=4", "params.steps=4")

    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert len(rows) == 8
    # The first prompt's background is white, the fourth one's is black.
    corners = {row["prompt_id"]: pixel(tmp_path / row["file_name"], 2, 2) for row in rows}
    assert min(corners["000000"]) > 180
    assert max(corners["000003"]) < 75


@pytest.mark.model
@pytest.mark.parametrize("name", ["image-to-image.yaml", "inpainting.yaml", "per-row-overrides.yaml"])
def test_the_other_specs_of_the_embedded_model_run(name: str, tmp_path: Path) -> None:
    run_spec(name, tmp_path, "prompts.limit=1")

    (row,) = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert pixel(tmp_path / row["file_name"], 2, 2) != (0, 0, 0)


def pixel(path: Path, x: int, y: int) -> tuple[int, int, int]:
    with Image.open(path) as image:
        found = image.convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple)
    return int(found[0]), int(found[1]), int(found[2])


def test_every_example_script_is_tested_here() -> None:
    assert [script.name for script in SCRIPTS] == ["draw_inputs.py", "python_api.py", "read_manifest.py"]


def test_the_python_api_example_runs_a_job_once(tmp_path: Path) -> None:
    said = run_script("python_api.py", tmp_path / "run", cwd=tmp_path)

    assert "6 succeeded, 0 failed" in said
    assert "again: 0 generated, 6 were done" in said
    assert said.count("(64, 64)") == 6


def test_the_manifest_example_reads_a_run(tmp_path: Path) -> None:
    run_spec("procedural.yaml", tmp_path / "run", "prompts.limit=1")

    said = run_script("read_manifest.py", tmp_path / "run", cwd=tmp_path)

    assert "8 ok" in said
    assert "a lighthouse in a storm (seed " in said


def test_the_input_images_are_those_that_the_script_draws(tmp_path: Path) -> None:
    script = tmp_path / "draw_inputs.py"
    script.write_bytes((ROOT / "examples/draw_inputs.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True)

    committed = sorted((ROOT / "examples/images").iterdir())
    assert [path.name for path in committed] == sorted(path.name for path in (tmp_path / "images").iterdir())
    for path in committed:
        with Image.open(path) as one, Image.open(tmp_path / "images" / path.name) as other:
            assert one.tobytes() == other.tobytes(), path.name
