"""Input images and masks of rows: found, measured, and never of two sizes in one batch."""

from __future__ import annotations

from typing import Any

import fsspec
import pytest
from PIL import ExifTags, Image

from tests.support.planning import Planner

JOB: dict[str, Any] = {"task": "image_to_image", "execution": {"batch_size": 2}}


def draw(planner: Planner, name: str, width: int, height: int) -> None:
    (planner.folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "red").save(planner.folder / name)


def test_paths_start_at_the_folder_of_the_prompt_file(planner: Planner) -> None:
    draw(planner, "data/img/a.png", 8, 6)
    planner.write("data/p.csv", "prompt,image\nx,img/a.png\n")

    plan = planner.build("data/p.csv", **JOB)

    assert plan.column("input_image") == [str(planner.folder / "data/img/a.png")]
    assert plan.column("mask_image") == [None]


def test_images_of_two_sizes_and_masked_ones_are_never_in_one_batch(planner: Planner) -> None:
    for name, width in (("a.png", 8), ("b.png", 16), ("m.png", 8)):
        draw(planner, name, width, 8)
    rows = [
        {"prompt": "x", "image": name, "mask": mask}
        for name, mask in [("a.png", None), ("b.png", None), ("a.png", "m.png")] * 2
    ]

    plan = planner.build(rows, **JOB)

    batches: dict[int, set[tuple[str, bool]]] = {}
    for row in plan.rows:
        batches.setdefault(row["batch_id"], set()).add((row["input_image"][-5:], row["mask_image"] is not None))
    assert sorted(map(len, batches.values())) == [1, 1, 1]


def test_a_turned_photo_counts_with_its_upright_size(planner: Planner) -> None:
    draw(planner, "upright.png", 8, 16)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (16, 8)).save(planner.folder / "turned.jpg", exif=exif)

    plan = planner.build([{"prompt": "x", "image": name} for name in ("upright.png", "turned.jpg")], **JOB)

    assert plan.column("batch_size") == [2, 2]


def test_the_same_name_with_other_content_is_another_request(planner: Planner) -> None:
    draw(planner, "a.png", 8, 8)
    before = planner.build([{"prompt": "x", "image": "a.png"}], **JOB)
    draw(planner, "a.png", 64, 64)
    after = planner.build([{"prompt": "x", "image": "a.png"}], **JOB)

    assert before.column("request_id") != after.column("request_id")


def test_images_are_read_from_urls(planner: Planner) -> None:
    draw(planner, "a.png", 8, 8)
    with fsspec.open("memory://images/a.png", "wb") as stream:
        stream.write((planner.folder / "a.png").read_bytes())

    plan = planner.build([{"prompt": "x", "image": "memory://images/a.png"}], **JOB)

    assert plan.column("input_image") == ["memory://images/a.png"]
    assert "no such file" in planner.problems([{"prompt": "x", "image": "memory://images/b.png"}], **JOB)[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"image": "none.png"}, "image: none.png: no such file"),
        ({"image": "p.txt"}, "image: p.txt: not a readable image"),
        ({"image": "folder"}, "image: folder: a folder"),
        ({"image": ""}, "image: no image (every image_to_image request needs one)"),
        ({"image": 5}, "image: not the path or URL of an image"),
        ({"image": "a.png", "mask": "b.png"}, "mask: the mask is 16x8, the image 8x8"),
    ],
)
def test_an_image_that_is_no_use_is_an_error_of_its_row(
    planner: Planner, row: dict[str, object], expected: str
) -> None:
    draw(planner, "a.png", 8, 8)
    draw(planner, "b.png", 16, 8)
    draw(planner, "folder/c.png", 8, 8)
    planner.write("p.txt", "not an image")

    (problem,) = planner.problems([{"prompt": "good", "image": "a.png"}, {"prompt": "bad", **row}], **JOB)

    assert problem.startswith("<spec>: prompts.source[1]: ")
    assert expected in problem


def test_a_task_that_needs_images_needs_their_column(planner: Planner) -> None:
    assert "image_to_image needs an image for every prompt" in planner.problems(["a fox"], **JOB)[0]


def test_a_task_without_images_passes_an_image_column_through(planner: Planner) -> None:
    plan = planner.build([{"prompt": "a fox", "image": "kept.png"}])

    assert plan.column("image") == ["kept.png"]
    assert plan.column("input_image") == [None]
    rows = [{"prompt": "a fox", "image": "kept.png"}]
    assert "text_to_image reads no image" in planner.problems(rows, prompts={"fields": {"image": "image"}})[0]


def test_a_model_that_takes_no_prompt_refuses_one_before_anything_runs(planner: Planner) -> None:
    draw(planner, "a.png", 1024, 576)
    job: dict[str, Any] = {
        "task": "image_to_video",
        "model": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
        "backend": {"kind": "diffusers"},
    }

    (problem,) = planner.problems([{"image": "a.png"}, {"image": "a.png", "prompt": "a fox"}], **job)

    assert problem.startswith("<spec>: prompts.source[1]: prompt: stabilityai/stable-video-diffusion-img2vid-xt-1-1")
    assert "takes no prompt (set prompts.fields.prompt: null; " in problem
    assert planner.build([{"image": "a.png"}], **job).column("prompt") == [""]
