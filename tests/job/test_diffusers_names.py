"""`validate` and `run` know schedulers and the pipeline's parameters, without loading or importing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app


def write_spec(folder: Path, **fields: Any) -> Path:
    job: dict[str, Any] = {
        "version": 1,
        "name": "names",
        "task": "text_to_image",
        "model": "avbatch/shapes64",
        "backend": {"kind": "diffusers"},
        "prompts": {"source": ["a red circle"]},
        "output": {"path": str(folder / "out")},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(job | fields, sort_keys=False))
    return path


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"backend": {"kind": "diffusers", "scheduler": "Eular a"}},
            "backend.scheduler: Diffusers has no Eular a (did you mean Euler a?)",
        ),
        (
            {"backend": {"kind": "diffusers", "scheduler": "EulerDiscretScheduler"}},
            "backend.scheduler: Diffusers has no EulerDiscretScheduler (did you mean EulerDiscreteScheduler?)",
        ),
        ({"params": {"extra": {"clip_skp": 1}}}, "params.extra.clip_skp: unknown (did you mean clip_skip?)"),
        ({"params": {"extra": {"bogus": 1}}}, "params.extra.bogus: unknown (StableDiffusionPipeline takes: "),
    ],
)
def test_a_name_that_diffusers_does_not_have_is_refused_before_anything_is_written(
    tmp_path: Path, command: str, fields: dict[str, Any], said: str
) -> None:
    """It failed after loading, and the folder then held another run without a row."""
    ended = CliRunner().invoke(app, [command, str(write_spec(tmp_path, **fields))])

    assert ended.exit_code == 2, ended.output
    assert said in str(ended.exception or "") + ended.output
    assert not (tmp_path / "out").exists()


def test_all_wrong_names_are_said_at_once(tmp_path: Path) -> None:
    fields = {"backend": {"kind": "diffusers", "scheduler": "x"}, "params": {"extra": {"eat": 1, "bogus": 2}}}

    ended = subprocess.run(
        [sys.executable, "-m", "abstractvision_batch", "validate", str(write_spec(tmp_path, **fields))],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "backend.scheduler: Diffusers has no x" in ended.stderr
    assert "params.extra.eat: unknown (did you mean eta?)" in ended.stderr
    assert "params.extra.bogus: unknown" in ended.stderr


def test_names_that_there_are_pass(tmp_path: Path) -> None:
    backend = {"kind": "diffusers", "scheduler": "EulerAncestralDiscreteScheduler"}
    extra = {"eta": 0.5, "clip_skip": 1, "loras": []}

    ended = CliRunner().invoke(app, ["validate", str(write_spec(tmp_path, backend=backend, params={"extra": extra}))])

    assert ended.exit_code == 0, ended.output


def test_a_package_that_a_model_needs_is_named_by_validate(tmp_path: Path) -> None:
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, RuntimeError):
        pass
    else:
        pytest.skip("torchvision is here")

    ended = CliRunner().invoke(app, ["validate", str(write_spec(tmp_path, model="Shitao/OmniGen-v1-diffusers"))])

    assert ended.exit_code == 0, ended.output
    assert "needs torchvision (pip install torchvision)" in ended.output
