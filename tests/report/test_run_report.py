"""The report of a real run: which rows it shows, and a README that other tools understand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.report.outcomes import collect_outcomes
from abstractvision_batch.report.readme import write_run_readme
from abstractvision_batch.report.run_report import read_rows, sample_positions
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.runs.plan_summary import PlanSummary
from abstractvision_batch.verbs.run import run

NO_OUTCOMES = collect_outcomes([], PlanSummary(6, 6, 6, 6, 1, 1, 1, 1, "", (), ()))
PROMPTS = [f"prompt number {number}" for number in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 prompts × 4 points × 1 sample, of which some fail."""
    path = tmp_path_factory.mktemp("report") / "run"
    spec: dict[str, Any] = {
        "name": "report",
        "description": "A run for the report's tests.",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", "fail_when": "number 7"},
        "prompts": {"source": PROMPTS},
        "params": {"width": 16, "height": 16},
        "matrix": {"guidance_scale": [1, 2], "steps": [3, 4]},
        "output": {"path": str(path)},
    }
    run(spec)
    return path


def header_of(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    header: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return header


def test_the_sheet_shows_the_same_prompts_of_every_parameter_set(folder: Path) -> None:
    store = open_run(folder).store

    rows = read_rows(store, sample_positions(store, 120, 4, pictures=20)).to_pylist()

    shown: dict[tuple[float, int], list[str]] = {}
    for row in rows:
        shown.setdefault((row["guidance_scale"], row["steps"]), []).append(row["prompt"])
    assert len(shown) == 4
    assert len({tuple(prompts) for prompts in shown.values()}) == 1
    assert len(rows) == 20


def test_the_sheet_of_a_run_without_a_matrix_spreads_over_all_of_it(folder: Path) -> None:
    positions = sample_positions(open_run(folder).store, 120, 1, pictures=5)

    assert positions == [0, 30, 60, 89, 119]


def test_a_sheet_shows_every_row_of_a_small_run(folder: Path) -> None:
    assert sample_positions(open_run(folder).store, 40, 4, pictures=48) == list(range(40))


def test_the_readme_counts_the_whole_manifest_not_the_sample(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")

    assert "| succeeded | 116 |" in text
    assert "| `generation` | permanent | 4 |" in text
    assert "![some of the pictures](report/contact-sheet.png)" in text
    assert (folder / "report/contact-sheet.png").is_file()


def test_the_readme_repeats_what_the_spec_says_and_no_defaults(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    spec = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])

    assert spec["matrix"] == {"guidance_scale": [1.0, 2.0], "steps": [3, 4]}
    assert spec["prompts"]["source"] == PROMPTS[:20]
    assert "# 10 more prompts are in run.json" in text
    assert "execution" not in spec


BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("avbatch/procedural", {"kind": "procedural"}),
    ("avbatch/shapes64", {"kind": "diffusers"}),
    ("gpt-image-2", {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": {"env": "A_KEY"}}),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", {"kind": "sdcpp", "model_path": "sd.gguf"}),
]


@pytest.mark.parametrize(("model", "backend"), BACKENDS)
def test_the_spec_in_the_readme_loads_and_is_the_one_that_ran(
    folder: Path, model: str, backend: dict[str, Any]
) -> None:
    """Also for a backend whose section is all defaults, of which nothing but the kind is left."""
    record = dict(open_run(folder).record.data)
    spec = {**record["spec"], "model": model, "backend": backend, "matrix": {}, "params": {}}
    spec = JobSpec.model_validate(spec).model_dump(mode="json")

    text = write_run_readme({**record, "spec": spec}, NO_OUTCOMES, {})

    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    shown["prompts"]["source"] = PROMPTS
    assert JobSpec.model_validate(shown).model_dump(mode="json") == spec


def test_the_readme_claims_no_licence_for_the_pictures(folder: Path) -> None:
    assert "license" not in header_of(folder)


def test_datasets_reads_the_folder_by_its_readme(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))

    assert rows.num_rows == pq.read_metadata(folder / "metadata.parquet").num_rows == 116
    assert rows[0]["prompt"] == PROMPTS[0]
    assert rows[0]["image"].size == (16, 16)


def test_the_lines_of_the_readme_load_pictures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = next(block for block in text.split("```python\n") if block.startswith("from datasets")).split("```")[0]

    names: dict[str, Any] = {}
    exec(code, names)

    assert names["images"].num_rows == 116
    assert names["images"][0]["image"].size == (16, 16)
