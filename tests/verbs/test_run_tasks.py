"""Whole jobs of the tasks that make more than one picture: videos and views, with and without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from abstractvision_batch.job.load import load_job
from abstractvision_batch.media.images import decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.probe import probe
from abstractvision_batch.media.video import video_pixel_sha256
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob
from tests.support.tiny_models import make_sd, make_wan, make_wan_image_to_video, save

ROOT = Path(__file__).parents[2]


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


def check_video(run_folder: Path | str, row: dict[str, Any], *, size: tuple[int, int], frames: int, fps: int) -> None:
    assert row["status"] == "ok", row["error_message"]
    data = Path(run_folder, row["file_name"]).read_bytes()
    info = probe(data, "video/mp4")
    assert row["file_name"].endswith(".mp4")
    assert row["content_type"] == "video/mp4"
    assert (row["fps"], row["num_frames"]) == (fps, frames)
    assert (row["media_width"], row["media_height"]) == (info.width, info.height) == size
    assert row["media_frames"] == info.frames == frames
    assert row["duration_s"] == pytest.approx(frames / fps) == info.duration_s
    assert row["pixel_sha256"] == video_pixel_sha256(data)


def check_views(run_folder: Path | str, row: dict[str, Any], angles: list[str]) -> list[dict[str, Any]]:
    assert row["status"] == "ok", row["error_message"]
    views: list[dict[str, Any]] = json.loads(row["metadata_json"])["views"]
    assert [view["angle"] for view in views] == angles
    assert views[0]["file_name"] == row["file_name"]
    assert len({view["file_name"] for view in views}) == len(angles)
    for view in views:
        data = Path(run_folder, view["file_name"]).read_bytes()
        assert len(data) == view["size_bytes"]
        assert pixel_sha256(decode_image(data)) == view["pixel_sha256"]
    return views


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    gradient = Image.linear_gradient("L").resize((64, 32))
    path.write_bytes(encode_image(Image.merge("RGB", (gradient, gradient.rotate(180), gradient)), "png"))
    return str(path)


# without a model


def test_text_to_video_leaves_videos_of_the_frames_and_speed_asked_for(make_job: MakeJob) -> None:
    params = {"width": 32, "height": 24, "seed": 7, "num_frames": 6}
    result = run(make_job(task="text_to_video", params=params, matrix={"fps": [3, 12]}, samples_per_prompt=1))

    rows = rows_of(result.path)
    assert (result.requests, result.exit_code) == (10, 0)
    for row in rows:
        check_video(result.path, row, size=(32, 24), frames=6, fps=row["fps"])
    assert {row["fps"] for row in rows} == {3, 12}


def test_image_to_video_is_as_large_as_its_image(make_job: MakeJob, picture: str) -> None:
    prompts = {"source": [{"image": picture}, {"image": picture, "prompt": "a fox"}]}
    params = {"num_frames": 5, "fps": 10}
    result = run(make_job(task="image_to_video", prompts=prompts, params=params, samples_per_prompt=1))

    for row in rows_of(result.path):
        check_video(result.path, row, size=(64, 32), frames=5, fps=10)


def test_a_row_of_views_has_a_file_each_and_one_seed(make_job: MakeJob, picture: str) -> None:
    prompts = {"source": [{"image": picture, "prompt": "a fox"}]}
    params = {"extra": {"angles": ["front", "left", "back"]}}
    result = run(make_job(task="multi_view_image", prompts=prompts, params=params, samples_per_prompt=2))

    rows = rows_of(result.path)
    assert (result.requests, len(rows)) == (2, 2)
    for row in rows:
        views = check_views(result.path, row, ["front", "left", "back"])
        assert len({view["pixel_sha256"] for view in views}) == 3
        metadata = json.loads(row["metadata_json"])
        assert metadata["seed"] == row["seed"]
        assert "angle" not in metadata, "what only one view has is the view's"
        assert (row["media_width"], row["media_height"]) == (64, 32)


def test_one_view_is_a_list_of_one(make_job: MakeJob) -> None:
    params = {"width": 32, "height": 24, "extra": {"angles": ["top"]}}
    result = run(make_job(task="multi_view_image", params=params, samples_per_prompt=1))

    for row in rows_of(result.path):
        check_views(result.path, row, ["top"])


def test_views_of_a_repeated_run_are_the_same_files(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(task="multi_view_image", samples_per_prompt=1)
    run(job)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("run/artifacts/*/*")}
    for part in tmp_path.glob("run/manifest/*"):
        part.unlink()

    again = run(job)

    assert again.generated == 5
    assert {path.name for path in tmp_path.glob("run/artifacts/*/*")} == before.keys()
    assert len(before) == 5 * 4


@pytest.mark.parametrize("angles", [[1], ["front", ""]])
def test_angles_that_are_no_words_fail_the_row_and_not_the_worker(make_job: MakeJob, angles: list[object]) -> None:
    result = run(make_job(task="multi_view_image", params={"extra": {"angles": angles}}, samples_per_prompt=1))

    assert result.failed == 5
    assert {row["error_kind"] for row in rows_of(result.path)} == {"generation"}
    assert "extra.angles" in rows_of(result.path)[0]["error_message"]


def test_a_view_that_fails_fails_its_row_alone(make_job: MakeJob) -> None:
    backend = {"kind": "procedural", "fail_when": "cat"}
    result = run(make_job(task="multi_view_image", backend=backend, samples_per_prompt=1))

    assert (result.succeeded, result.failed) == (4, 1)


# with a model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models and one card for each."""
    folder = tmp_path_factory.mktemp("models")
    save(make_wan, folder / "wan")
    save(make_wan_image_to_video, folder / "wan-i2v")
    save(make_sd, folder / "sd")
    video = {"steps": {"default": 2}, "num_frames": {"default": 5}, "fps": {"default": 8}, "width": {}, "height": {}}
    short = {"max_sequence_length": {"type": "int", "default": 64}}
    pipelines = {
        "wan": ("text_to_video", "WanPipeline", {**video, **short}),
        "wan-i2v": ("image_to_video", "WanImageToVideoPipeline", {**video, **short, "prompt": {}}),
        "sd": ("multi_view_image", "StableDiffusionImg2ImgPipeline", {"steps": {"default": 4}, "angles": {}}),
    }
    cards = [
        {
            "id": f"tiny/{name}",
            "license": "mit",
            "tasks": {task: {"params": params}},
            "backends": {"diffusers": {"path": str(folder / name), "batch_size": 2, "pipelines": {task: pipeline}}},
        }
        for name, (task, pipeline, params) in pipelines.items()
    ]
    (folder / "cards.yaml").write_text(yaml.safe_dump({"cards": cards}))
    return folder


def make_model_job(make_job: MakeJob, models: Path, name: str, **sections: Any) -> dict[str, Any]:
    return make_job(
        model=f"tiny/{name}",
        registry={"paths": [str(models / "cards.yaml")]},
        backend={"kind": "diffusers", "device": "cpu"},
        samples_per_prompt=1,
        execution={"shard_size": 2},
        **sections,
    )


@pytest.mark.model
def test_text_to_video_with_diffusers_shares_passes_and_keeps_frames_and_speed(make_job: MakeJob, models: Path) -> None:
    job = make_model_job(
        make_job,
        models,
        "wan",
        task="text_to_video",
        prompts={"source": ["a fox", "a cat", "a dog"]},
        params={"width": 64, "height": 32, "fps": 5},
    )
    result = run(job)

    rows = rows_of(result.path)
    assert result.exit_code == 0, rows[0]["error_message"]
    for row in rows:
        check_video(result.path, row, size=(64, 32), frames=5, fps=5)
    assert [json.loads(row["metadata_json"])["batch_size"] for row in rows] == [2, 2, 1]
    assert {row["reproducibility"] for row in rows} == {"bit-exact"}


@pytest.mark.model
def test_image_to_video_with_diffusers_starts_from_each_rows_image(
    make_job: MakeJob, models: Path, picture: str
) -> None:
    job = make_model_job(
        make_job,
        models,
        "wan-i2v",
        task="image_to_video",
        prompts={"source": [{"image": picture, "prompt": "a fox"}, {"image": picture}]},
        params={"num_frames": 9},
    )
    result = run(job)

    rows = rows_of(result.path)
    assert result.exit_code == 0, rows[0]["error_message"]
    for row in rows:
        check_video(result.path, row, size=(64, 32), frames=9, fps=8)


@pytest.mark.model
def test_views_with_diffusers_are_one_row_and_one_pass(make_job: MakeJob, models: Path, picture: str) -> None:
    job = make_model_job(
        make_job,
        models,
        "sd",
        task="multi_view_image",
        prompts={"source": [{"image": picture, "prompt": "a fox"}]},
        params={"extra": {"angles": ["front", "back"]}},
    )
    result = run(job)

    (row,) = rows_of(result.path)
    check_views(result.path, row, ["front", "back"])
    metadata = json.loads(row["metadata_json"])
    assert (metadata["batch_size"], metadata["seed"]) == (2, row["seed"])
    assert (row["media_width"], row["media_height"]) == (64, 32)


# the repository's specs


@pytest.mark.parametrize(
    ("name", "requests", "files"), [("text-to-video", 3, 3), ("image-to-video", 12, 12), ("multi-view", 6, 24)]
)
def test_a_spec_of_the_repository_runs(tmp_path: Path, name: str, requests: int, files: int) -> None:
    result = run(load_job(ROOT / "specs" / f"{name}.yaml", overrides=[f"output.path={tmp_path / 'run'}"]))

    assert (result.requests, result.succeeded) == (requests, requests)
    assert len(list((tmp_path / "run/artifacts").glob("*/*"))) == files
