"""Another run as prompts: its rows, and its pictures as input images."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob

MakeChain = Callable[..., dict[str, Any]]
SIZE = {"width": 32, "height": 24}


@pytest.fixture
def pictures(make_job: MakeJob, tmp_path: Path) -> MakeChain:
    """A job of two pictures."""

    def make(layout: str = "files", path: str | None = None, **sections: Any) -> dict[str, Any]:
        output = {"path": path or str(tmp_path / "a"), "layout": layout}
        source = [{"prompt": "a fox", "kind": "x", "mask": "/etc/passwd"}, {"prompt": "a cat", "kind": "y"}]
        return make_job(**{"output": output, "prompts": {"source": source}, "samples_per_prompt": 1, **sections})

    return make


@pytest.fixture
def next_job(make_job: MakeJob, tmp_path: Path) -> MakeChain:
    """A job on the rows of the run at `a`."""

    def make(task: str, source: dict[str, Any] | None = None, name: str = "b", **prompts: Any) -> dict[str, Any]:
        return make_job(
            task=task,
            prompts={"source": {"run": str(tmp_path / "a"), **(source or {})}, **prompts},
            params={"seed": 5, "num_frames": 3, "fps": 4} if task.endswith("video") else {"seed": 5},
            samples_per_prompt=1,
            output={"path": str(tmp_path / name)},
        )

    return make


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_run(path).table().to_pylist()
    return rows


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_the_pictures_of_a_run_are_input_images_from_any_layout(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path, layout: str
) -> None:
    run(pictures(layout))

    result = run(next_job("image_to_image"))

    first, second = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert result.succeeded == 2
    assert [row["prompt"] for row in second] == ["a fox", "a cat"]
    assert [row["prompt_id"] for row in second] == [row["request_id"] for row in first]
    assert [row["input_sha256"] for row in second] == [row["sha256"] for row in first]
    assert [row["source_seed"] for row in second] == [row["seed"] for row in first]
    assert [(row["kind"], row["mask_image"]) for row in second] == [("x", None), ("y", None)]
    assert [row["source_mask"] for row in second] == ["/etc/passwd", None]
    assert {(row["input_width"], row["input_height"]) for row in second} == {(32, 24)}


def test_the_run_that_prompts_are_from_is_recorded(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    run(pictures())
    run(next_job("image_to_video"))

    (origin,) = json.loads((tmp_path / "b" / "run.json").read_text())["plan"]["prompts_origins"]

    first = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (origin["run_id"], origin["fingerprint"], origin["rows"]) == (first["run_id"], first["fingerprint"], 2)
    assert re.fullmatch("[0-9a-f]{64}", origin["rows_sha256"])
    shown = CliRunner().invoke(app, ["record", str(tmp_path / "b")]).stdout
    assert f"of run {tmp_path / 'a'}, fingerprint {first['fingerprint']}" in shown


def test_text_to_image_to_video_are_two_jobs_with_the_first_as_tars_on_s3(
    pictures: MakeChain, next_job: MakeChain, s3_server: StoreServer, tmp_path: Path
) -> None:
    first, second = s3_server.new_url(), s3_server.new_url()
    run(pictures("webdataset", first))
    job = next_job("image_to_video", {"run": first, "where": "kind = 'x'"}, template="{{ prompt }}, panning")
    job["output"] = {"path": second, "layout": "webdataset"}

    result = run(job)

    (row,) = open_run(second).table().to_pylist()
    assert (result.succeeded, row["status"], row["content_type"]) == (1, "ok", "video/mp4")
    assert row["prompt"] == "a fox, panning"
    assert re.fullmatch(rf"{first}/artifacts/00000-[0-9a-f]{{12}}\.tar#bytes=\d+-\d+", row["input_image"])
    assert row["input_sha256"] == open_run(first).table()["sha256"][0].as_py()
    assert run(job).skipped == 1


@pytest.mark.ray
def test_workers_on_ray_read_the_pictures_of_the_other_run(
    pictures: MakeChain, next_job: MakeChain, ray_cluster: None, s3_server: StoreServer
) -> None:
    first = s3_server.new_url()
    run(pictures("parquet", first))
    job = next_job("image_to_image", {"run": first})
    # Ray may have been started before the store: then its workers do not have the store's variables of themselves.
    env_vars = {name: {"env": name} for name in os.environ if name.startswith("AWS_")}
    job["execution"] = {
        "executor": "ray",
        "actors": 1,
        "cpus_per_actor": 1,
        "runtime_env": {"env_vars": env_vars},
    }

    assert run(job).succeeded == 2


def test_a_moved_run_gives_the_same_requests(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    run(pictures("webdataset"))
    run(next_job("image_to_image"))
    shutil.move(tmp_path / "a", tmp_path / "moved")
    moved = {"run": str(tmp_path / "moved")}

    assert run(next_job("image_to_image", moved)).skipped == 2
    run(next_job("image_to_image", moved, "c"))
    assert [row["request_id"] for row in rows_of(tmp_path / "c")] == [
        row["request_id"] for row in rows_of(tmp_path / "b")
    ]


def test_only_rows_that_succeeded_are_prompts_unless_where_speaks_of_the_status(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path
) -> None:
    source = [{"prompt": "a fox"}, {"prompt": "a cat"}]
    run(pictures(prompts={"source": source}, backend={"kind": "procedural", "fail_when": "cat"}))
    assert [row["status"] for row in rows_of(tmp_path / "a")] == ["ok", "failed"]

    assert run(next_job("image_to_image")).requests == 1
    run(next_job("image_to_image", {"where": "seed >= 0"}, "c"))
    run(next_job("text_to_image", {"where": "status = 'failed'"}, "d", template="{{ prompt }}"))

    assert [row["prompt"] for row in rows_of(tmp_path / "c")] == ["a fox"]
    assert [row["source_file_name"] for row in rows_of(tmp_path / "d")] == [None]


def test_what_is_wrong_with_the_other_run_is_one_line_with_its_place(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=r"^<spec>: prompts\.source\.run: .*/a: no run here"):
        run(next_job("image_to_image"))
    run(pictures())
    for source, said in (
        (
            {"where": "sede > 3"},
            r"^<spec>: prompts\.source\.where: 'sede > 3' at character 1: no column 'sede' \(did you mean seed",
        ),
        ({"where": "seed < 0"}, r"none of its 2 rows meets where, so there is no prompt"),
    ):
        with pytest.raises(SpecError, match=said) as caught:
            run(next_job("image_to_image", source))
        assert "\n" not in str(caught.value)


def test_videos_are_no_input_images(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    run(pictures(task="text_to_video", params={**SIZE, "num_frames": 2, "fps": 4}))

    with pytest.raises(SpecError, match=r"its rows are of video/mp4, and input images are pictures"):
        run(next_job("image_to_video"))
    assert run(next_job("text_to_image")).succeeded == 2


def test_every_picture_that_is_gone_is_named(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    run(pictures())
    for row in rows_of(tmp_path / "a"):
        (tmp_path / "a" / row["file_name"]).unlink()

    with pytest.raises(SpecError) as caught:
        run(next_job("image_to_image"))

    assert len(caught.value.problems) == 2
    assert all("prompts.source.run" in line for line in caught.value.problems)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "~/secret.png", "run.json", "artifacts/../../secret.png"]
)
def test_names_of_a_strangers_run_stay_inside_it(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path, name: str
) -> None:
    run(pictures())
    Image.new("RGB", (32, 24)).save(tmp_path / "secret.png")
    _edit_manifest(tmp_path / "a", "file_name", name)

    with pytest.raises(
        SpecError, match=r"prompts\.source\.run: .*(not a name inside a run|not a file of its artifacts)"
    ):
        run(next_job("image_to_image"))


def test_a_link_out_of_a_strangers_run_is_not_followed(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path
) -> None:
    run(pictures())
    Image.new("RGB", (32, 24)).save(tmp_path / "secret.png")
    picture = tmp_path / "a" / rows_of(tmp_path / "a")[0]["file_name"]
    picture.unlink()
    picture.symlink_to(tmp_path / "secret.png")

    with pytest.raises(SpecError, match=r"prompts\.source\.run: .*leads out"):
        run(next_job("image_to_image"))


def test_a_run_that_goes_on_is_taken_as_far_as_it_is_with_a_note_and_extended_later(
    pictures: MakeChain, next_job: MakeChain, tmp_path: Path
) -> None:
    job = pictures(execution={"batch_size": 1, "shard_size": 1})
    run(job)
    last = next(path for path in (tmp_path / "a" / "manifest").iterdir() if path.name.startswith("00001"))
    last.rename(tmp_path / last.name)
    (tmp_path / "a" / "manifest.parquet").unlink()

    result = run(next_job("image_to_image"))
    assert result.requests == 1
    notes = json.loads((tmp_path / "b" / "run.json").read_text())["plan"]["notes"]
    assert notes == [f"{tmp_path / 'a'}: 1 of its 2 requests have no result yet (--extend adds them later)"]
    (tmp_path / last.name).rename(last)

    assert run(next_job("image_to_image"), extend=True).requests == 2


def test_every_view_of_an_object_is_a_row(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    pictures_of = pictures(task="multi_view_image", params={**SIZE, "extra": {"angles": ["front", "side"]}})
    pictures_of["prompts"] = {"source": ["a fox"]}
    run(pictures_of)

    run(next_job("image_to_image"))

    (first,) = rows_of(tmp_path / "a")
    assert [row["prompt_id"] for row in rows_of(tmp_path / "b")] == [first["request_id"], f"{first['request_id']}-v1"]


def test_columns_of_a_third_job_do_not_clash(pictures: MakeChain, next_job: MakeChain, tmp_path: Path) -> None:
    run(pictures())
    run(next_job("image_to_image"))
    run(next_job("image_to_image", {"run": str(tmp_path / "b")}, "c"))

    second, third = rows_of(tmp_path / "b"), rows_of(tmp_path / "c")
    assert [row["source_seed"] for row in third] == [row["seed"] for row in second]
    assert [row["source_source_seed"] for row in third] == [row["source_seed"] for row in second]


def _edit_manifest(folder: Path, column: str, value: str) -> None:
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    position = table.schema.get_field_index(column)
    values = pa.array([value] * table.num_rows, table.schema.field(position).type)
    sink = io.BytesIO()
    pq.write_table(table.set_column(position, table.schema.field(position), values), sink)
    path.write_bytes(sink.getvalue())
