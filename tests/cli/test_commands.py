"""What each command prints, called in this process."""

from __future__ import annotations

import json
import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.cli.machine import EXTRAS
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.types import TASKS
from tests.support.jobs import MakeJob

CARD = """\
id: me/mine
provider: me
license: mit
tasks:
  text_to_image:
    params:
      width: {default: 64, multiple_of: 16}
backends:
  procedural: {batch_size: 2}
"""


def avbatch(*args: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result.stdout


def avbatch_json(*args: str | Path, code: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(avbatch(*args, "--json", code=code))
    return data


@pytest.fixture
def spec(make_job: MakeJob, tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job()), encoding="utf-8")
    return path


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "mine.yaml").write_text(CARD)
    return folder


def test_validate_counts_what_a_run_would_make_and_writes_nothing(spec: Path, tmp_path: Path) -> None:
    assert avbatch("validate", spec).startswith(f"OK  {spec}: 20 requests (5 prompts × 4 samples) in 5 shards")
    assert not (tmp_path / "run").exists()


def test_validate_reads_the_prompts(spec: Path) -> None:
    answer = avbatch_json("validate", spec, "--set", "prompts.template={{ absent }}", code=2)

    assert "absent" in answer["problems"][0]


def test_plan_shows_the_first_rows_and_how_many_follow(spec: Path) -> None:
    lines = avbatch("plan", spec, "--rows", "3").splitlines()

    assert lines[2].split()[:3] == ["INDEX", "SHARD", "BATCH_ID"]
    assert [line.split()[0] for line in lines[3:6]] == ["0", "1", "2"]
    assert lines[6] == "… and 17 more rows"


def test_plan_shows_what_differs_between_rows(spec: Path) -> None:
    shown = avbatch("plan", spec, "--set", "matrix.steps=[3, 4]", "--rows", "40")

    assert "STEPS" in shown
    assert "GUIDANCE_SCALE" not in shown


def test_plan_prints_columns_of_any_type_as_json(spec: Path, tmp_path: Path) -> None:
    columns = {"prompt": ["a fox"], "when": [datetime(2026, 1, 2, tzinfo=UTC)], "score": [math.nan]}
    pq.write_table(pa.table(columns), tmp_path / "prompts.parquet")

    answer = avbatch_json("plan", spec, "--set", "prompts.source=prompts.parquet")

    row = answer["rows"][0]
    assert row["when"].startswith("2026-01-02")
    assert row["score"] is None


@pytest.mark.parametrize("shard_size", [4, 1])
def test_plan_writes_all_rows_to_one_file_a_row_group_a_shard(spec: Path, tmp_path: Path, shard_size: int) -> None:
    # 80 shards are two files in a run.
    settings = ["--set", "samples_per_prompt=16", "--set", f"execution.shard_size={shard_size}"]
    output = tmp_path / "new" / "plan.parquet"

    answer = avbatch_json("plan", spec, "--output", output, "--set", "execution.batch_size=1", *settings)

    file = pq.ParquetFile(output)
    assert file.metadata.num_rows == answer["requests"] == 80
    assert file.metadata.num_row_groups == answer["shards"] == 80 // shard_size
    assert file.read()["index"].to_pylist() == list(range(80))


def test_status_of_a_run_by_its_folder_and_by_its_spec(spec: Path, tmp_path: Path) -> None:
    avbatch("run", spec, "--quiet", "--set", "backend.fail_when=owl", code=1)

    by_folder = avbatch_json("status", tmp_path / "run")
    by_spec = avbatch_json("status", spec)

    assert by_folder == by_spec
    assert (by_folder["shards"], by_folder["shards_done"], by_folder["complete"], by_folder["merged"]) == (
        5,
        5,
        True,
        True,
    )
    assert (by_folder["succeeded"], by_folder["failed"]) == (16, 4)
    assert by_folder["failures"][0]["error_kind"] == "generation"
    assert "4 × generation" in avbatch("status", spec)


def test_status_of_a_run_that_was_cut_short(spec: Path, tmp_path: Path) -> None:
    avbatch("run", spec, "--quiet")
    (tmp_path / "run/manifest.parquet").unlink()
    (tmp_path / "run/manifest/00002-a0.parquet").unlink()

    text = avbatch("status", spec)

    assert "4 of 5 done" in text
    assert "16 succeeded, 0 failed, 4 left" in text
    assert "not merged yet" in text
    assert "run the same spec again to resume" in text


def test_status_of_a_run_of_which_no_shard_is_done(spec: Path, tmp_path: Path) -> None:
    avbatch("run", spec, "--quiet")
    (tmp_path / "run/manifest.parquet").unlink()
    for part in (tmp_path / "run/manifest").iterdir():
        part.unlink()

    assert avbatch_json("status", spec)["shards_done"] == 0


def test_models_lists_every_card() -> None:
    assert [model["id"] for model in avbatch_json("models")["models"]] == list(load_cards())
    assert "avbatch/shapes64" in avbatch("models")


def test_models_can_be_narrowed_to_a_task_and_a_backend() -> None:
    models = avbatch_json("models", "--task", "text_to_video", "--backend", "procedural")["models"]

    assert [model["id"] for model in models] == ["avbatch/procedural"]


def test_a_user_s_cards_are_known_to_every_command(cards: Path, spec: Path) -> None:
    assert "me/mine" in avbatch("models", "--registry", cards)
    assert avbatch_json("show-model", "me/mine", "--registry", cards)["license"] == "mit"
    answer = avbatch_json(
        "validate", spec, "--registry", cards, "--set", "model=me/mine", "--set", "params.width=40", code=2
    )
    assert "40 is not a multiple of 16" in " ".join(answer["problems"])


def test_tasks_lists_the_five() -> None:
    assert {task["task"] for task in avbatch_json("tasks")["tasks"]} == set(TASKS)


def test_show_model_has_limits_licence_and_source() -> None:
    text = avbatch("show-model", "avbatch/shapes64")

    for said in ("apache-2.0", "StableDiffusionInpaintPipeline", "only 64", "1 to 100", "required", "README.md"):
        assert said in text


def test_the_schema_is_the_one_that_the_package_ships() -> None:
    assert json.loads(avbatch("schema")) == avbatch_json("schema")
    assert avbatch_json("schema")["type"] == "object"


def test_the_starter_spec_is_valid_and_is_not_overwritten_by_chance(tmp_path: Path) -> None:
    path = tmp_path / "my job.yaml"

    avbatch("init", path)
    avbatch("validate", path)
    avbatch("init", path, code=2)
    avbatch("init", path, "--force")

    text = path.read_text(encoding="utf-8")
    schema = Path(text.splitlines()[0].rpartition("=")[2])
    assert schema.is_file()
    assert yaml.safe_load(text)["name"] == "my-job"


def test_what_the_starter_spec_offers_in_comments_is_valid_too(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    avbatch("init", path)
    body = path.read_text(encoding="utf-8").split("version: 1", 1)[1]
    lines = body.splitlines()
    start = lines.index("# matrix:")
    lines[start : start + 3] = [line.removeprefix("# ") for line in lines[start : start + 3]]
    uncommented = [
        line.replace("  # ", "  ", 1) if line.startswith("  # ") and line.split("#")[1].strip()[:6] in OFFERED else line
        for line in lines
    ]
    path.write_text("\n".join(uncommented), encoding="utf-8")

    answer = avbatch_json("validate", path)

    assert answer["requests"] == 2 * 6 * 2
    spec = yaml.safe_load("\n".join(uncommented))
    assert {"template", "limit"} <= spec["prompts"].keys()
    assert {"steps", "guidance_scale", "negative_prompt"} <= spec["params"].keys()


OFFERED = ("templa", "limit:", "steps:", "guidan", "negati", "device", "batch_")


def test_doctor_says_what_works_and_never_fails() -> None:
    answer = avbatch_json("doctor")

    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["ok"] is True
    assert checks["drawing"]["ok"]
    assert checks["embedded model"]["ok"]
    assert checks["temp"]["ok"]
    assert {"extra diffusers", "extra ray", "extra s3", "ray", "torchvision"} <= checks.keys()
    torchvision = checks["torchvision"]
    assert torchvision["ok"] or "Qwen/Qwen-Image-Edit" in torchvision["found"] or "fails" in torchvision["found"]
    assert torchvision["ok"] or torchvision["advice"]
    for check in answer["checks"]:
        if check["name"].startswith("extra ") and not check["ok"]:
            assert "pip install" in check["advice"]


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"all", "dev"}
