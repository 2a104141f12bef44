"""A folder or a glob of pictures as prompts, with masks by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob
from tests.support.planning import Planner

EDIT: dict[str, Any] = {"task": "image_to_image", "prompts": {"template": "a watercolour"}}


def draw(folder: Path, *names: str, mode: str = "RGB", size: tuple[int, int] = (24, 16), **options: Any) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 255 if mode == "L" else (200, 30, 30)).save(path, **options)


def test_each_picture_of_a_folder_is_a_row_with_its_name_as_id(planner: Planner) -> None:
    draw(planner.folder / "photos", "b.png", "a.JPG", "deep/c.webp", ".hidden.png", ".cache/d.png")
    planner.write("photos/notes.txt", "no picture")

    plan = planner.build({"images": "photos"}, **EDIT)

    assert plan.column("prompt_id") == ["a.JPG", "b.png", "deep/c.webp"]
    assert plan.column("input_image") == [str(planner.folder / "photos" / name) for name in plan.column("prompt_id")]
    assert set(plan.column("prompt")) == {"a watercolour"}
    assert plan.column("mask_image") == [None] * 3


def test_a_glob_names_pictures_by_what_follows_its_folder(planner: Planner) -> None:
    draw(planner.folder / "photos", "x/1.png", "y/1.png", "y/2.jpg")

    plan = planner.build({"images": "photos/*/1.png"}, task="image_to_image", prompts={"template": "{{ id }}"})

    assert plan.column("prompt_id") == plan.column("prompt") == ["x/1.png", "y/1.png"]


def test_a_neighbour_that_is_called_a_mask_is_one(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png", "y.jpg", "face_mask.png")
    draw(planner.folder / "p", "x_mask.png", mode="L")

    plan = planner.build({"images": "p"}, **EDIT)

    masks = dict(zip(plan.column("prompt_id"), plan.column("mask_image"), strict=True))
    assert masks == {"x.png": str(planner.folder / "p" / "x_mask.png"), "y.jpg": None, "face_mask.png": None}
    assert plan.summary.notes == ("p: 1 of 4 pictures are masks of their neighbours, by their names (…_mask)",)


def test_a_task_without_masks_leaves_them_out_with_a_note(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png", "x_mask.png")

    plan = planner.build({"images": "p"}, task="image_to_video", params={"num_frames": 2, "fps": 4})

    assert plan.column("prompt_id") == ["x.png"]
    assert plan.summary.notes == ("p: 1 of 2 pictures are called like masks and left out (…_mask)",)


@pytest.mark.parametrize("masks", ["masks", "masks/*", "masks/**/*.png"])
def test_a_folder_of_masks_has_them_under_the_same_names(planner: Planner, masks: str) -> None:
    draw(planner.folder / "p", "x.jpg", "deep/y.png")
    draw(planner.folder / "masks", "x.png", "deep/y_mask.png", "idle.png", mode="L")
    if masks == "masks/*":
        (planner.folder / "p" / "deep" / "y.png").unlink()

    plan = planner.build({"images": "p", "masks": masks}, **EDIT)

    found = dict(zip(plan.column("prompt_id"), plan.column("mask_image"), strict=True))
    assert Path(found["x.jpg"]).samefile(planner.folder / "masks" / "x.png")
    if "deep/y.png" in found:
        assert Path(found["deep/y.png"]).samefile(planner.folder / "masks" / "deep" / "y_mask.png")
    assert plan.summary.notes == (f"{planner.folder / 'masks'}: masks of no picture: 1, as idle.png",)


def test_masks_in_the_folder_of_the_pictures_are_no_pictures(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png")
    draw(planner.folder / "p", "m/x.png", mode="L")

    assert planner.build({"images": "p", "masks": "p/m"}, **EDIT).column("prompt_id") == ["x.png"]


def test_every_picture_without_a_mask_and_every_second_mask_is_named(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png", "y.png", "z.png")
    draw(planner.folder / "m", "z.png", "z_mask.png", mode="L")

    assert planner.problems({"images": "p", "masks": "m"}, **EDIT) == (
        "<spec>: prompts.source.masks: z.png and z_mask.png are masks of one picture (remove one)",
        "<spec>: prompts.source.masks: x.png has no mask there (as x.png or x_mask.png)",
        "<spec>: prompts.source.masks: y.png has no mask there (as y.png or y_mask.png)",
    )


def test_what_is_wrong_with_a_folder_of_pictures_is_one_line(planner: Planner) -> None:
    planner.write("p/a.txt", "x")
    draw(planner.folder / "q", "x.png")

    for source, sections, said in (
        ({"images": "none"}, EDIT, "prompts.source.images: none: no such folder (looked for "),
        ({"images": "p"}, EDIT, "p: no picture there, 1 other files (their names end in .png, .jpg, .jpeg, .webp and"),
        ({"images": "q/*.jpg"}, EDIT, "q/*.jpg: no picture there, nothing"),
        ({"images": "q"}, {}, "prompts.source.images: text_to_image starts from no picture"),
        ({"images": "q", "masks": "q"}, {"task": "image_to_video"}, "source.masks: image_to_video reads no mask"),
        ({"images": "q"}, {"task": "image_to_image"}, "no column feeds the prompt (name one with prompt:, or set tem"),
    ):
        (problem,) = planner.problems(source, **sections)
        assert said in problem


def test_a_picture_is_turned_as_its_exif_orientation_says(make_job: MakeJob, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(tmp_path / "p", "x.jpg", exif=exif)
    prompts = {"source": {"images": str(tmp_path / "p")}, "template": "a watercolour"}

    run(make_job(task="image_to_image", prompts=prompts, params={}, samples_per_prompt=1))

    (row,) = open_run(tmp_path / "run").table().to_pylist()
    assert (row["input_width"], row["input_height"]) == (16, 24)
    assert (row["media_width"], row["media_height"]) == (16, 24)


def test_moving_the_folder_changes_no_request(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png")
    draw(planner.folder / "m", "x.png", mode="L")
    before = planner.build({"images": "p", "masks": "m"}, **EDIT)
    for name in ("p", "m"):
        (planner.folder / "moved").mkdir(exist_ok=True)
        (planner.folder / name).rename(planner.folder / "moved" / name)

    after = planner.build({"images": "moved/p", "masks": "moved/m"}, **EDIT)

    assert after.column("request_id") == before.column("request_id")
    assert after.summary.prompts_digest == before.summary.prompts_digest


def test_another_picture_in_the_folder_is_another_digest(planner: Planner) -> None:
    draw(planner.folder / "p", "x.png")
    before = planner.build({"images": "p"}, **EDIT)
    draw(planner.folder / "p", "y.png")

    assert planner.build({"images": "p"}, **EDIT).summary.prompts_digest != before.summary.prompts_digest


def test_pictures_of_an_object_store_are_listed_there(planner: Planner, s3_server: StoreServer, tmp_path: Path) -> None:
    url = s3_server.new_url()
    draw(tmp_path / "up", "p/a.png", "p/deep/b.png")
    draw(tmp_path / "up", "m/a.png", "m/deep/b.png", mode="L")
    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **s3_server.options)
    filesystem.put(str(tmp_path / "up"), url, recursive=True)
    options = {"template": "x", "storage_options": s3_server.options}

    for images in (f"{url}/p", f"{url}/p/**/*.png"):
        plan = planner.build({"images": images, "masks": f"{url}/m"}, task="image_to_image", prompts=options)
        assert plan.column("input_image") == [f"{url}/p/a.png", f"{url}/p/deep/b.png"]
        assert plan.column("mask_image") == [f"{url}/m/a.png", f"{url}/m/deep/b.png"]
