"""Prompts that are given in Python as a table, and that the run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import build_plan
from abstractvision_batch.prompts.frames import with_prompts
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

ROWS = {"prompt": ["a fox", "a cat"], "seed": [3, None], "score": [0.5, None], "Kind": ["x", None]}


def make_dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_dict(ROWS)


FRAMES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(ROWS),
    "polars": lambda: pl.DataFrame(ROWS),
    "lazy": lambda: pl.LazyFrame(ROWS),
    "arrow": lambda: pa.table(ROWS),
    "batch": lambda: pa.RecordBatch.from_pydict(ROWS),
    "datasets": make_dataset,
}


def spec_without_source(make_job: MakeJob) -> dict[str, Any]:
    return make_job(prompts={"limit": 10}, samples_per_prompt=1)


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_is_prompts_with_its_columns(make_job: MakeJob, tmp_path: Path, kind: str) -> None:
    job = load_job(with_prompts(spec_without_source(make_job), FRAMES[kind]()))

    run(job)

    rows = open_run(tmp_path / "run").table()
    assert rows["prompt"].to_pylist() == ["a fox", "a cat"]
    assert rows["seed"].to_pylist()[0] == 3
    assert rows["score"].to_pylist() == [0.5, None]
    assert rows["Kind"].to_pylist() == ["x", None]
    assert set(rows["status"].to_pylist()) == {"ok"}


def test_every_kind_of_frame_with_the_same_rows_is_the_same_run(make_job: MakeJob, tmp_path: Path) -> None:
    for make in (FRAMES["polars"], FRAMES["arrow"], FRAMES["datasets"]):
        run(load_job(with_prompts(spec_without_source(make_job), make())))

    assert open_run(tmp_path / "run").counts.succeeded == 2


def test_the_table_is_in_the_run_before_its_record_and_goes_on_without_the_frame(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run(with_prompts(spec_without_source(make_job), FRAMES["polars"]()))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    frame = record["spec"]["prompts"]["source"]["frame"]
    kept = tmp_path / "run" / frame
    assert kept.stat().st_mtime_ns <= (tmp_path / "run" / "run.json").stat().st_mtime_ns
    for part in (tmp_path / "run" / "manifest").iterdir():
        part.unlink()
    (tmp_path / "run" / "plan.parquet").unlink()

    again = run(spec_without_source(make_job) | {"prompts": {"limit": 10, "source": {"frame": frame}}})

    assert again.succeeded == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == record


def test_a_larger_frame_extends_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    ids = {"id": ["a", "b", "c"], "prompt": ["a fox", "a cat", "a dog"]}
    run(with_prompts(spec_without_source(make_job), pl.DataFrame(ids).head(2)))

    run(with_prompts(spec_without_source(make_job), pl.DataFrame(ids)), extend=True)

    assert open_run(tmp_path / "run").table()["prompt_id"].to_pylist() == ["a", "b", "c"]


def test_another_frame_is_another_run(make_job: MakeJob) -> None:
    run(with_prompts(spec_without_source(make_job), pl.DataFrame({"prompt": ["a fox"]})))

    with pytest.raises(SpecError, match="holds another run"):
        run(with_prompts(spec_without_source(make_job), pl.DataFrame({"prompt": ["a wolf"]})))


def test_a_plan_of_a_frame_writes_nothing_into_the_run(make_job: MakeJob, tmp_path: Path) -> None:
    job = load_job(with_prompts(spec_without_source(make_job), pl.DataFrame({"prompt": ["a fox"]})))

    plan = build_plan(job, tmp_path)

    assert plan.requests == 1
    assert not (tmp_path / "run").exists()


def test_an_index_with_a_name_is_a_column(make_job: MakeJob, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["p1"], "prompt": ["a fox"]}).set_index("id")

    run(with_prompts(spec_without_source(make_job), frame))

    assert open_run(tmp_path / "run").table()["prompt_id"].to_pylist() == ["p1"]


def test_a_list_or_a_path_stands_in_place_of_the_source(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a ${fox}\n")

    for prompts in (["a ${fox}"], [{"prompt": "a ${fox}"}], tmp_path / "p.txt"):
        plan = build_plan(load_job(with_prompts(make_job(samples_per_prompt=1), prompts)), tmp_path)
        assert plan.requests == 1


def test_what_is_no_table_is_refused_in_one_line() -> None:
    from datasets import DatasetDict

    splits = DatasetDict({"train": make_dataset()})
    mixed = pd.DataFrame({"prompt": ["a fox", object()]})

    for wrong, said in (
        (7, "holds no prompts"),
        (splits, r"it has splits \(give one of them: train\)"),
        (mixed, "cannot be stored as a table"),
    ):
        with pytest.raises(SpecError, match=said) as caught:
            with_prompts({}, wrong)
        assert "\n" not in str(caught.value)


def test_a_table_that_the_run_lost_is_asked_for(make_job: MakeJob) -> None:
    job = load_job(make_job(prompts={"source": {"frame": "prompts/0123456789abcdef.parquet"}}))

    with pytest.raises(SpecError, match=r"prompts\.source: .*0123456789abcdef\.parquet: no such file"):
        run(job)
