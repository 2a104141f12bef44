"""A run as a program and a notebook have it: rows, pictures, a line, a card in HTML."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import abstractvision_batch as avb
from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError, StorageError
from abstractvision_batch.media.images import pixel_sha256
from abstractvision_batch.runs import opened
from abstractvision_batch.runs.run_html import PICTURES, SIDE
from tests.support.jobs import MakeJob


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_a_runs_pictures_come_with_their_rows_from_every_layout(make_job: MakeJob, tmp_path: Path, layout: str) -> None:
    backend = {"kind": "procedural", "fail_when": "owl"}
    run = avb.run(make_job(backend=backend, output={"path": str(tmp_path / "run"), "layout": layout})).run

    pictures = list(run.images())

    assert len(pictures) == 16
    assert [row["index"] for row, _ in pictures] == [row["index"] for row in run.table().to_pylist() if row["sha256"]]
    assert all(pixel_sha256(picture) == row["pixel_sha256"] for row, picture in pictures)
    chosen = [row["prompt"] for row, _ in run.images(where="prompt LIKE '%fox' AND sample_index < 2")]
    assert chosen == ["a fox", "a fox"]


def test_of_a_video_the_first_frame_is_the_picture(make_job: MakeJob, tmp_path: Path) -> None:
    params = {"width": 32, "height": 32, "num_frames": 5}
    run = avb.run(make_job(task="text_to_video", params=params, samples_per_prompt=1)).run

    row, picture = next(run.images())

    assert isinstance(picture, Image.Image)
    assert (picture.size, row["media_frames"]) == ((32, 32), 5)


def test_a_run_that_is_not_done_has_the_rows_and_pictures_so_far(make_job: MakeJob, tmp_path: Path) -> None:
    result = avb.run(make_job(execution={"batch_size": 2, "shard_size": 4, "budget": {"requests": 8}}))

    assert (result.run.counts.succeeded, result.run.counts.not_done) == (8, 12)
    assert len(list(avb.open_run(result.run).images())) == result.run.table().num_rows == 8


def test_a_wrong_condition_is_refused_and_a_lost_picture_named(make_job: MakeJob, tmp_path: Path) -> None:
    run = avb.run(make_job()).run

    with pytest.raises(SpecError, match="no column 'stpes'"):
        next(run.images(where="stpes > 3"))
    next((tmp_path / "run" / "artifacts").rglob("*.png")).unlink()
    with pytest.raises(StorageError, match=r"\.png"):
        list(run.images())
    assert "cannot be shown" in run._repr_html_()


def test_a_runs_frame_has_the_rows_of_its_manifest(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    run = avb.run(make_job()).run

    frame = run.to_pandas()

    assert frame["seed"].tolist() == run.table()["seed"].to_pylist()
    assert run.spec.samples_per_prompt == 4
    found = importlib.util.find_spec
    monkeypatch.setattr(opened, "find_spec", lambda name: None if name == "pandas" else found(name))
    with pytest.raises(OptionalDependencyMissingError, match="pip install pandas"):
        run.to_pandas()


def test_a_run_is_a_line_and_in_a_notebook_a_card_with_its_first_pictures(make_job: MakeJob, tmp_path: Path) -> None:
    result = avb.run(make_job(backend={"kind": "procedural", "fail_when": "bee"}))
    run = avb.open_run(tmp_path / "run")

    assert repr(run) == f"<Run small: 20 × text_to_image of avbatch/procedural, in {tmp_path}/run>"
    card = run._repr_html_()
    assert card == result._repr_html_()
    assert "20 requests: 16 succeeded,\n4 failed" in card
    assert card.count("data:image/png;base64,") == PICTURES
    assert (tmp_path / "run/report/contact-sheet.png").as_uri() in card


def test_a_run_of_variants_names_them(make_job: MakeJob) -> None:
    variants = {"plain": {}, "strong": {"params": {"width": 32, "height": 24, "guidance_scale": 4}}}
    run = avb.run(make_job(variants=variants)).run

    assert "of 2 variants, in" in repr(run)
    assert "plain (avbatch/procedural · procedural), strong (" in run._repr_html_()


def test_what_a_strangers_run_says_does_nothing_in_a_notebook(make_job: MakeJob, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e" + "x" * 5000
    run = avb.run(make_job(prompts={"source": [{"prompt": evil}]}, params={"width": 512, "height": 400})).run

    card = avb.open_run(run.url)._repr_html_()

    assert "<script" not in card
    assert not re.search(r"<[^>]*onerror", card)
    assert "\u202e" not in card
    assert "&lt;script&gt;" in card
    assert len(card) < 200_000
    assert SIDE == 128


def test_results_as_json_have_no_opened_run(make_job: MakeJob) -> None:
    from abstractvision_batch.text.to_json import to_json

    assert "run" not in to_json(avb.run(make_job()))


def test_a_plan_is_rows_without_a_run(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(matrix={"guidance_scale": [1, 2]})

    plan = avb.plan(job)

    assert (len(plan), plan.table().num_rows, len(plan.to_pandas())) == (40, 40, 40)
    assert repr(plan) == "<Plan small: 40 requests of 5 prompts, 2 parameter sets, 4 samples each>"
    assert not (tmp_path / "run").exists()
    avb.run(make_job(matrix={"guidance_scale": [1]}))
    assert set(avb.plan(job, extend=True).to_pandas()["guidance_scale"]) == {2.0}
    written: Any = pq.read_table(tmp_path / "run" / "plan.parquet")
    assert written.schema.names == plan.table().schema.names


def test_verbs_take_a_run_that_is_open(make_job: MakeJob) -> None:
    run = avb.run(make_job()).run

    assert avb.status(run).complete
    assert avb.verify(run, sample=2).exit_code == 0
    assert avb.audit(run).findings == ()
    assert not avb.diff(run, run).pairs
    assert avb.retry(run).complete
