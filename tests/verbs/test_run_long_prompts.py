"""Prompts that are longer than a model reads: counted before a run, noted in the row, one line in the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.types import ImageGenerationRequest
from tests.support.tiny_diffusers import make_backend, metadata
from tests.support.tiny_models import make_flux, make_sd, save

pytestmark = pytest.mark.model

LONG = " ".join(["a red circle on a white background"] * 30)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    job: dict[str, Any] = {
        "version": 1,
        "name": "long",
        "task": "text_to_image",
        "model": "avbatch/shapes64",
        "backend": {"kind": "diffusers"},
        "prompts": {"source": ["a red circle", LONG]},
        "params": {"steps": 1},
        "execution": {"executor": "inline"},
        "output": {"path": str(tmp_path / "out")},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_validate_counts_what_the_model_would_not_read(spec: Path) -> None:
    ended = CliRunner().invoke(app, ["validate", str(spec)])
    as_json = json.loads(CliRunner().invoke(app, ["validate", str(spec), "--json"]).stdout)

    assert ended.exit_code == 0, ended.output
    assert "note: the model reads only the beginning of 1 prompt (up to" in ended.output
    assert as_json["prompts_cut"] == 1


def test_the_row_says_how_much_was_cut_and_the_summary_that_something_was(spec: Path, tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["run", str(spec)])

    assert ended.exit_code == 0, ended.output
    assert "prompts    of 1 row are longer than the model reads" in ended.output
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet", columns=["metadata_json"]).to_pylist()
    short, long = (json.loads(row["metadata_json"]) for row in rows)
    assert "prompt_tokens_cut" not in short
    assert long["prompt_tokens_cut"]["tokenizer"] > 100


def test_every_tokenizer_counts_by_its_own_length(tmp_path: Path) -> None:
    """Flux's CLIP reads 77 tokens, its T5 as many as the call says."""
    folder = save(make_flux, tmp_path / "flux")
    request = ImageGenerationRequest("x" * 100, width=32, height=32, steps=1, seed=1, extra={"max_sequence_length": 90})
    longer = ImageGenerationRequest("x" * 100, width=32, height=32, steps=1, seed=1)
    with make_backend(folder) as backend:
        (both,) = backend.generate_batch([request])
        (first,) = backend.generate_batch([longer])
        counted = list(backend.count_cut_tokens("text_to_image", ["x", "x" * 100], {"max_sequence_length": 90}))

    assert metadata(both)["prompt_tokens_cut"].keys() == {"tokenizer", "tokenizer_2"}
    assert metadata(first)["prompt_tokens_cut"].keys() == {"tokenizer"}
    assert counted == [0, max(metadata(both)["prompt_tokens_cut"].values())]


def test_a_negative_prompt_is_counted_apart(tmp_path: Path) -> None:
    request = ImageGenerationRequest("x", negative_prompt="y" * 200, width=32, height=32, steps=1, seed=1)
    with make_backend(save(make_sd, tmp_path / "sd")) as backend:
        (item,) = backend.generate_batch([request])

    assert "prompt_tokens_cut" not in metadata(item)
    assert metadata(item)["negative_prompt_tokens_cut"]["tokenizer"] > 100
