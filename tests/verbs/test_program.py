"""A row of a run as a program that needs PyTorch and Diffusers alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

SPEC = {
    "model": "avbatch/shapes64",
    "backend": {"kind": "diffusers", "scheduler": {"name": "Euler", "timestep_spacing": "linspace"}},
    "execution": {"executor": "inline", "batch_size": 3},
}


def _program(folder: Path, index: int) -> str:
    row = pq.read_table(folder / "manifest.parquet").to_pylist()[index]
    done = CliRunner().invoke(app, ["verify", str(folder), "--id", row["request_id"], "--python"])
    assert done.exit_code == 0, done.output
    return done.stdout


def _execute(program: str, folder: Path) -> str:
    assert "abstractvision_batch import" not in program
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
def test_a_picture_from_text_comes_out_the_same_to_the_bit(make_job: MakeJob, tmp_path: Path) -> None:
    run(
        make_job(
            **SPEC,
            prompts={"source": [f'a large {colour} circle on a "white" background' for colour in ("red", "blue", "é")]},
            params={"steps": 3, "guidance_scale": 4.5, "seed": 5, "negative_prompt": "green"},
            samples_per_prompt=1,
        )
    )

    assert "the same pixels" in _execute(_program(tmp_path / "run", 1), tmp_path)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_painted_into_a_mask_comes_out_the_same_to_the_bit(
    make_job: MakeJob, tmp_path: Path, fit: str
) -> None:
    Image.new("RGBA", (80, 72), (0, 0, 128, 100)).save(tmp_path / "image.png")
    mask = Image.new("RGBA", (80, 72), (0, 0, 0, 0))
    mask.paste((9, 9, 9, 255), (0, 0, 40, 30))
    mask.save(tmp_path / "mask.png")
    prompts: list[dict[str, Any]] = [
        {"prompt": f"a small {colour} square", "image": str(tmp_path / "image.png"), "mask": str(tmp_path / "mask.png")}
        for colour in ("red", "green")
    ]
    run(
        make_job(
            **SPEC,
            task="image_to_image",
            prompts={"source": prompts, "fit": fit, "fields": {"image": "image", "mask": "mask"}},
            params={"steps": 4, "seed": 5, "strength": 0.8, "width": 64, "height": 64},
            samples_per_prompt=1,
        )
    )

    assert "the same pixels" in _execute(_program(tmp_path / "run", 1), tmp_path)


def test_a_backend_without_a_program_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())
    row = pq.read_table(tmp_path / "run" / "manifest.parquet").to_pylist()[0]
    runner = CliRunner()

    none = runner.invoke(app, ["verify", str(tmp_path / "run"), "--id", row["request_id"], "--python"])
    unknown = runner.invoke(app, ["verify", str(tmp_path / "run"), "--id", "nosuch", "--python"])

    assert (none.exit_code, unknown.exit_code) == (2, 2)
    assert "its requests cannot be written as a program" in none.stderr
    assert "request 'nosuch': the plan has none of this id" in unknown.stderr
