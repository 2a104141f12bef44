"""Whole jobs with input pictures: fitted as the spec says, the same on every backend, and known by their content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from abstractvision_batch.cli.commands.record import record
from abstractvision_batch.cli.spec_options import SpecOptions
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.lock import lock, require_locked
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.verify import verify
from tests.support.circles import draw_circle, measure_circle
from tests.support.jobs import MakeJob


def rows_of(folder: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(f"{folder}/manifest.parquet").to_pylist()
    return rows


def picture_of(folder: str, row: dict[str, Any]) -> np.ndarray[Any, Any]:
    assert row["status"] == "ok", row["error_message"]
    return np.asarray(Image.open(Path(folder, row["file_name"])).convert("RGB"))


@pytest.fixture
def edit(make_job: MakeJob, tmp_path: Path) -> MakeJob:
    """An edit that changes nothing, of a circle in a picture of 128 by 64; keywords replace sections."""
    draw_circle((128, 64)).save(tmp_path / "circle.png")

    def make(**sections: Any) -> dict[str, Any]:
        rows = [{"prompt": "x", "image": str(tmp_path / "circle.png")}]
        fit = sections.pop("fit", None)
        prompts = {"source": rows} | sections.pop("prompts", {}) | ({} if fit is None else {"fit": fit})
        params = {"strength": 0.0, "seed": 7} | sections.pop("params", {})
        return make_job(task="image_to_image", samples_per_prompt=1, prompts=prompts, params=params, **sections)

    return make


@pytest.mark.parametrize("fit", [None, "error"])
def test_another_aspect_is_refused_before_anything_runs(edit: MakeJob, tmp_path: Path, fit: str | None) -> None:
    with pytest.raises(SpecError) as refused:
        run(edit(fit=fit, params={"width": 64, "height": 64}))

    (problem,) = refused.value.problems
    assert f"image: {tmp_path / 'circle.png'}: 128x64 has another aspect than 64x64 (write prompts.fit: crop" in problem
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(("fit", "round_"), [("crop", True), ("pad", True), ("stretch", False)])
def test_a_circle_stays_round_by_crop_and_pad_and_not_by_stretch(edit: MakeJob, fit: str, round_: bool) -> None:
    result = run(edit(fit=fit, params={"width": 64, "height": 64}))

    (row,) = rows_of(result.path)
    picture = picture_of(result.path, row)
    width, height = measure_circle(picture)
    assert picture.shape == (64, 64, 3)
    assert (abs(width - height) <= 1) == round_
    assert (row["input_fit"], row["input_width"], row["input_height"]) == (fit, 128, 64)
    assert (row["width"], row["height"]) == (64, 64)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({"width": 64}, (64, 32)),
        ({"height": 16}, (32, 16)),
        ({"width": 33}, (33, 17)),
        ({"width": 64, "height": 32}, (64, 32)),
        ({"width": 65, "height": 32}, (65, 32)),
        ({}, (128, 64)),
    ],
)
def test_one_side_computes_the_other_and_none_is_the_pictures_own_size(
    edit: MakeJob, params: dict[str, int], size: tuple[int, int]
) -> None:
    result = run(edit(params=params))

    (row,) = rows_of(result.path)
    assert (row["media_width"], row["media_height"]) == size
    assert (row["width"], row["height"]) == (size if params else (None, None))
    width, height = measure_circle(picture_of(result.path, row))
    assert abs(width - height) <= 1


def test_a_size_of_the_matrix_or_of_the_row_is_checked_for_every_picture(edit: MakeJob, tmp_path: Path) -> None:
    draw_circle((64, 128)).save(tmp_path / "high.png")
    rows = [
        {"prompt": "x", "image": str(tmp_path / "circle.png")},
        {"prompt": "x", "image": str(tmp_path / "high.png")},
        {"prompt": "x", "image": str(tmp_path / "high.png"), "height": 128},
    ]
    with pytest.raises(SpecError) as refused:
        run(edit(prompts={"source": rows}, matrix={"width": [64, 32]}, params={"height": 32}))

    assert [problem.split("has another aspect than ")[1][:6] for problem in refused.value.problems] == [
        "32x32 ", "64x32 ", "32x128",
    ]  # fmt: skip


def test_each_picture_gets_the_side_that_follows_from_it(edit: MakeJob, tmp_path: Path) -> None:
    draw_circle((64, 128)).save(tmp_path / "high.png")
    rows = [{"prompt": "x", "image": str(tmp_path / name)} for name in ("circle.png", "high.png")]

    result = run(edit(prompts={"source": rows}, matrix={"width": [64, 32]}))

    sizes = [(row["media_width"], row["media_height"]) for row in rows_of(result.path)]
    assert sizes == [(64, 32), (64, 128), (32, 16), (32, 64)]


def test_the_orientation_counts_before_the_aspect(edit: MakeJob, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    draw_circle((64, 128)).save(tmp_path / "turned.jpg", exif=exif)
    rows = [{"prompt": "x", "image": str(tmp_path / "turned.jpg")}]

    result = run(edit(prompts={"source": rows}, params={"width": 64, "height": 32}))

    (row,) = rows_of(result.path)
    width, height = measure_circle(picture_of(result.path, row))
    assert (row["input_width"], row["input_height"]) == (128, 64)
    assert abs(width - height) <= 1


@pytest.mark.parametrize("task", ["image_to_video", "multi_view_image"])
def test_every_task_with_a_picture_is_checked(edit: MakeJob, task: str) -> None:
    job = edit(params={"width": 64, "height": 64}) | {"task": task}
    del job["params"]["strength"]

    with pytest.raises(SpecError, match="has another aspect than 64x64"):
        run(job)

    job["prompts"]["fit"] = "crop"
    assert run(job).exit_code == 0


def test_a_mask_is_fitted_as_its_picture(edit: MakeJob, tmp_path: Path) -> None:
    """Everything but the circle is masked, at half the picture's size, so the circle is what stays."""
    circle = draw_circle((128, 64))
    circle.getchannel("R").point(lambda value: 255 - value).resize((64, 32)).save(tmp_path / "mask.png")
    rows = [{"prompt": "x", "image": str(tmp_path / "circle.png"), "mask": str(tmp_path / "mask.png")}]

    result = run(edit(fit="crop", prompts={"source": rows}, params={"width": 64, "height": 64, "strength": 1.0}))

    (row,) = rows_of(result.path)
    kept = np.asarray(circle.crop((32, 0, 96, 64)))
    inside = (kept[:, :, 0] > 250)[20:44, 20:44]
    assert inside.all()
    assert (picture_of(result.path, row)[20:44, 20:44] == (255, 0, 0)).all()
    assert row["mask_sha256"] != row["input_sha256"]


def test_a_mask_of_another_aspect_is_refused_with_every_fit(edit: MakeJob, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    rows = [{"prompt": "x", "image": str(tmp_path / "circle.png"), "mask": str(tmp_path / "mask.png")}]

    for fit in ("error", "crop", "pad", "stretch"):
        with pytest.raises(SpecError, match="the mask is 64x64, the image 128x64"):
            run(edit(fit=fit, prompts={"source": rows}))


def test_a_mask_that_changes_nothing_fails_its_row_alone(edit: MakeJob, tmp_path: Path) -> None:
    Image.new("L", (128, 64), 0).save(tmp_path / "black.png")
    Image.new("RGBA", (128, 64)).save(tmp_path / "clear.png")
    rows = [
        {"prompt": "x", "image": str(tmp_path / "circle.png"), "mask": str(tmp_path / name)}
        for name in ("black.png", "clear.png")
    ]

    result = run(edit(prompts={"source": rows}))

    failed, good = rows_of(result.path)
    assert (failed["error_kind"], good["status"]) == ("input", "ok")
    assert "black.png: it changes nothing: it is black everywhere" in failed["error_message"]


# content


def replace_circle(folder: Path) -> None:
    """Another picture of as many bytes: one of its pixels is another one, and nothing is compressed."""
    path = folder / "circle.bmp"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture
def by_content(edit: MakeJob, tmp_path: Path) -> dict[str, Any]:
    """Two rows of one picture, in two shards."""
    draw_circle((128, 64)).save(tmp_path / "circle.bmp")
    rows = [{"prompt": prompt, "image": str(tmp_path / "circle.bmp")} for prompt in ("a", "b")]
    return edit(prompts={"source": rows}, execution={"batch_size": 1, "shard_size": 1})


def test_a_picture_that_was_replaced_fails_the_rows_that_are_left(by_content: dict[str, Any], tmp_path: Path) -> None:
    first = run({**by_content, "execution": {**by_content["execution"], "budget": {"requests": 1}}})
    assert first.generated == 1
    replace_circle(tmp_path)

    result = run(by_content)

    done, failed = rows_of(result.path)
    assert (done["status"], failed["status"], failed["error_kind"]) == ("ok", "failed", "input")
    assert "the input image changed since planning" in failed["error_message"]
    assert result.exit_code == 1


def test_verify_names_a_picture_that_was_replaced_and_diff_says_that_it_differs(
    by_content: dict[str, Any], tmp_path: Path
) -> None:
    run(by_content)
    replace_circle(tmp_path)

    report = verify(tmp_path / "run", sample=None)

    (change,) = [change for change in report.changes if change.kind == "input"]
    assert (change.name, report.exit_code) == (str(tmp_path / "circle.bmp"), 1)
    assert {row.verdict for row in report.rows} == {"failed"}
    run({**by_content, "output": {"path": str(tmp_path / "again")}})
    compared = diff(tmp_path / "run", tmp_path / "again")
    assert {name for pair in compared.pairs for name in pair.changed} == {"input_sha256"}


def test_a_lock_holds_a_job_to_its_pictures(by_content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(by_content))
    loaded = load_job(tmp_path / "job.yaml")
    lock(loaded)
    require_locked(loaded)
    replace_circle(tmp_path)

    with pytest.raises(SpecError, match=r"input image .*circle\.bmp: [0-9a-f]{12} locked, [0-9a-f]{12} now"):
        require_locked(load_job(tmp_path / "job.yaml"))


def test_record_shows_the_digest_of_the_pictures(
    by_content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(by_content)
    record(str(tmp_path / "run"), SpecOptions())

    digest = open_run(tmp_path / "run").plan.inputs_digest
    assert digest is not None
    assert f"inputs       {digest[:12]}" in capsys.readouterr().out


def test_a_request_keeps_its_id_and_its_picture_is_recorded(by_content: dict[str, Any], tmp_path: Path) -> None:
    """Two pictures under one name and of one size in bytes are one id, as ever; the manifest says which it was."""
    before = rows_of(run(by_content).path)
    replace_circle(tmp_path)
    after = rows_of(run({**by_content, "output": {"path": str(tmp_path / "again")}}).path)

    assert [row["request_id"] for row in before] == [row["request_id"] for row in after]
    assert before[0]["input_sha256"] != after[0]["input_sha256"]
    assert before[0]["input_sha256"] == before[1]["input_sha256"]


def test_the_fit_is_part_of_an_id_where_it_changes_pixels(edit: MakeJob, tmp_path: Path) -> None:
    ids = {}
    for fit in ("error", "crop", "pad", "stretch"):
        output = {"path": str(tmp_path / f"run-{fit}")}
        (row,) = rows_of(run(edit(fit=fit, params={"width": 64, "height": 32}, output=output)).path)
        ids[fit] = row["request_id"]

    assert ids["error"] == ids["stretch"]
    assert len(set(ids.values())) == 3


# depth and transparency, as jobs


def test_a_16_bit_ramp_comes_out_as_a_ramp(edit: MakeJob, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")

    result = run(edit(prompts={"source": [{"prompt": "x", "image": str(tmp_path / "ramp.png")}]}))

    (row,) = rows_of(result.path)
    wanted = np.rint(np.linspace(0, 255, 64))
    assert np.abs(picture_of(result.path, row)[:, :, 0] - wanted).max() <= 1


def test_values_without_a_known_white_fail_their_row(edit: MakeJob, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 300, np.int32)).save(tmp_path / "deep.tif")

    result = run(edit(prompts={"source": [{"prompt": "x", "image": str(tmp_path / "deep.tif")}]}))

    (row,) = rows_of(result.path)
    assert row["error_kind"] == "input"
    assert "whole numbers of 300 to 300 in 32 bits, and nothing says which is white" in row["error_message"]


def test_what_is_transparent_is_white_and_never_its_hidden_colour(edit: MakeJob, tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cut-out.png")

    for fit in ("error", "pad"):
        output = {"path": str(tmp_path / f"run-{fit}")}
        rows = [{"prompt": "x", "image": str(tmp_path / "cut-out.png")}]
        result = run(edit(fit=fit, prompts={"source": rows}, output=output, params={"width": 32}))
        (row,) = rows_of(result.path)
        assert (picture_of(result.path, row) == 255).all()


def test_a_file_that_is_replaced_while_the_job_runs_is_not_remembered(tmp_path: Path) -> None:
    """A picture that was put back is read again, and not refused by what is still in memory."""
    import hashlib

    from abstractvision_batch.errors import InputImageError
    from abstractvision_batch.execute.requests import InputImages

    out = io.BytesIO()
    draw_circle((16, 16)).save(out, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(b"something else")
    row = {
        "input_image": str(path), "input_fit": "error", "width": None, "height": None, "input_width": 16,
        "input_height": 16, "input_sha256": hashlib.sha256(out.getvalue()).hexdigest(),
    }  # fmt: skip
    images = InputImages({})
    with pytest.raises(InputImageError, match="changed since planning"):
        images.prepare(row, "input_image")
    path.write_bytes(out.getvalue())

    assert images.prepare(row, "input_image") == out.getvalue()
