"""Whole jobs in each layout: the same pictures in files, tars and Parquet files, whatever happens on the way."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.media.images import decode_image, pixel_sha256
from abstractvision_batch.media.video import video_pixel_sha256
from abstractvision_batch.runs.columns import PLAN_SCHEMA
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import choose_output
from tests.support.emulators import StoreServer
from tests.support.jobs import MakeJob

CONTAINERS = {"webdataset": "tar", "parquet": "parquet"}
LAYOUTS = ("files", *CONTAINERS)
#: What no layout changes.
MADE = [*PLAN_SCHEMA.names, "status", "size_bytes", "sha256", "pixel_sha256", "media_width", "reproducibility"]
#: What it does.
PLACES = ["file_name", "member", "offset_bytes", "container_bytes"]
HEALTHY = "backend.fail_when=null"

MakeLayoutJob = Callable[..., dict[str, Any]]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_container = pytest.mark.parametrize("layout", CONTAINERS)


@pytest.fixture
def job_in(make_job: MakeJob, tmp_path: Path) -> MakeLayoutJob:
    """A job of 6 requests in 3 shards, in a layout; keywords replace whole sections."""

    def make(layout: str, **sections: Any) -> dict[str, Any]:
        small = {
            "prompts": {"source": [{"prompt": "a fox", "n": 1}, {"prompt": "a cat", "n": 2}, {"prompt": "a dog"}]},
            "samples_per_prompt": 2,
            "params": {"width": 16, "height": 16, "seed": 7},
            "execution": {"batch_size": 1, "shard_size": 2},
            "output": {"path": str(tmp_path / layout), "layout": layout},
        }
        return make_job(**{**small, **sections})

    return make


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_run(path).table().to_pylist()
    return rows


def artifacts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "artifacts").rglob("*") if path.is_file()}


@each_layout
def test_every_layout_has_the_same_rows_pictures_and_root(layout: str, job_in: MakeLayoutJob, tmp_path: Path) -> None:
    plain = run(job_in("files"))
    result = run(job_in(layout))

    there, here = open_run(plain.path), open_run(result.path)
    assert here.table().select(MADE) == there.table().select(MADE)
    assert (audit(result.path).findings, audit(result.path).root) == ((), audit(plain.path).root)
    for row in here.table().to_pylist():
        data = here.read_artifact(row)
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert pixel_sha256(decode_image(data)) == row["pixel_sha256"]
    sheets = [Path(path, "report/contact-sheet.png").read_bytes() for path in (plain.path, result.path)]
    assert sheets[0] == sheets[1]


@each_container
def test_a_shard_leaves_one_container_named_by_its_content_and_rows_say_where_in_it_they_are(
    layout: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    rows = rows_of(run(job_in(layout)).path)

    files = artifacts(tmp_path / layout)
    assert [name.partition("-")[0] for name in sorted(files)] == ["00000", "00001", "00002"]
    for name, data in files.items():
        assert name.partition("-")[2] == f"{hashlib.sha256(data).hexdigest()[:12]}.{CONTAINERS[layout]}"
    for row in rows:
        data = files[row["file_name"].removeprefix("artifacts/")]
        assert row["file_name"].startswith(f"artifacts/{row['shard']:05d}-")
        assert (row["member"], row["container_bytes"]) == (f"{row['request_id']}.png", len(data))
        piece = data[row["offset_bytes"] : row["offset_bytes"] + row["size_bytes"]]
        assert hashlib.sha256(piece).hexdigest() == row["sha256"]


@each_container
def test_a_shard_that_is_run_again_writes_the_same_container(
    layout: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    run(job_in(layout))
    before, rows = artifacts(tmp_path / layout), rows_of(tmp_path / layout)
    for part in (tmp_path / layout / "manifest").iterdir():
        part.unlink()

    again = run(job_in(layout))

    assert again.generated == 6
    assert artifacts(tmp_path / layout) == before
    assert [[row[name] for name in PLACES] for row in rows_of(again.path)] == [
        [row[name] for name in PLACES] for row in rows
    ]


@each_container
def test_a_failed_row_has_no_member_and_a_shard_of_failures_no_container(
    layout: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    result = run(job_in(layout, backend={"kind": "procedural", "fail_when": "dog"}))

    rows = rows_of(result.path)
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"] * 2
    assert all(row[name] is None for row in rows[4:] for name in PLACES)
    assert sorted(name[:5] for name in artifacts(tmp_path / layout)) == ["00000", "00001"]
    assert audit(result.path).findings == ()


@each_container
def test_a_retry_writes_containers_of_the_rows_it_ran_and_leaves_the_others(
    layout: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    """Shards of three requests: one failure beside two successes."""
    execution = {"batch_size": 1, "shard_size": 3}
    healthy = run(job_in(layout, execution=execution, output={"path": str(tmp_path / "healthy"), "layout": layout}))
    path = run(job_in(layout, execution=execution, backend={"kind": "procedural", "fail_when": "dog"})).path
    before, files = rows_of(path), artifacts(tmp_path / layout)

    result = retry(path, overrides=[HEALTHY])

    after = rows_of(path)
    assert (result.generated, result.failed) == (2, 0)
    assert [row["pixel_sha256"] for row in after] == [row["pixel_sha256"] for row in rows_of(healthy.path)]
    assert after[:4] == before[:4]
    (added,) = artifacts(tmp_path / layout).keys() - files.keys()
    assert {row["file_name"] for row in after[4:]} == {f"artifacts/{added}"}
    assert {name: artifacts(tmp_path / layout)[name] for name in files} == files
    assert audit(path).findings == ()


def test_a_run_keeps_its_layout(job_in: MakeLayoutJob, tmp_path: Path) -> None:
    result = run(job_in("webdataset", backend={"kind": "procedural", "fail_when": "dog"}))
    other = job_in("webdataset", output={"path": result.path, "layout": "parquet"})

    with pytest.raises(SpecError, match=r"output\.layout: [^\n]*laid out as webdataset, not parquet \(leave"):
        run(other)
    with pytest.raises(SpecError, match=r"laid out as webdataset, not files"):
        retry(result.path, overrides=["output.layout=files"])
    assert choose_output(load_job(other)).spec.output.path == f"{result.path}-2"


@each_layout
def test_views_are_members_of_their_rows_sample(layout: str, job_in: MakeLayoutJob, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "in.png")
    prompts = {"source": [{"prompt": "a fox", "image": str(tmp_path / "in.png")}]}
    params = {"width": 16, "height": 16, "extra": {"angles": ["front", "left", "back"]}}
    path = run(job_in(layout, task="multi_view_image", prompts=prompts, params=params)).path

    opened = open_run(path)
    report = audit(path)
    assert (report.findings, report.requests, report.files) == ((), 2, 6)
    for row in rows_of(path):
        views = json.loads(row["metadata_json"])["views"]
        assert [view["angle"] for view in views] == ["front", "left", "back"]
        for view in views:
            assert pixel_sha256(decode_image(opened.read_artifact(view))) == view["pixel_sha256"]
        if layout != "files":
            names = [f"{row['request_id']}{view}.png" for view in ("", ".v1", ".v2")]
            assert [view["member"] for view in views] == names


@each_layout
def test_videos_lie_in_every_layout(layout: str, job_in: MakeLayoutJob) -> None:
    params = {"width": 16, "height": 16, "num_frames": 3, "fps": 3}
    path = run(job_in(layout, task="text_to_video", params=params, samples_per_prompt=1)).path

    opened = open_run(path)
    assert audit(path).findings == ()
    for row in rows_of(path):
        assert video_pixel_sha256(opened.read_artifact(row)) == row["pixel_sha256"]


def test_a_tar_says_nothing_of_when_where_and_by_whom(job_in: MakeLayoutJob, tmp_path: Path) -> None:
    run(job_in("webdataset"))

    with tarfile.open(next((tmp_path / "webdataset/artifacts").glob("00001-*.tar"))) as tar:
        members = tar.getmembers()
        row = json.load(io.BytesIO(tar.extractfile(members[2]).read()))  # type: ignore[union-attr]
    planned = pq.read_table(tmp_path / "webdataset/plan.parquet").to_pylist()[2]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    assert [member.name.partition(".")[2] for member in members] == ["png", "txt", "json"] * 2
    assert {name: value for name, value in row.items() if name in planned} == {
        name: value for name, value in planned.items() if value is not None
    }
    assert not {"started_at", "latency_s", "worker", "attempts"} & set(row)


def test_a_parquet_file_holds_pictures_uncompressed_and_small_row_groups_say_what_they_are(
    job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    run(job_in("parquet"))

    path = next((tmp_path / "parquet/artifacts").iterdir())
    columns = {}
    group = pq.read_metadata(path).row_group(0)
    for number in range(group.num_columns):
        columns[group.column(number).path_in_schema] = group.column(number)
    schema = pq.read_schema(path)
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert not columns["image.bytes"].has_dictionary_page
    assert columns["prompt"].compression == "ZSTD"
    assert json.loads(schema.metadata[b"huggingface"]) == {"info": {"features": {"image": {"_type": "Image"}}}}
    assert {"request_id", "prompt", "n", "pixel_sha256"} <= set(schema.names)
    assert not {"started_at", "latency_s", "worker", "attempts"} & set(schema.names)


def test_a_column_of_the_prompts_that_is_named_like_the_pictures_gets_another_name_in_parquet(
    job_in: MakeLayoutJob,
) -> None:
    prompts = {"source": [{"prompt": "a fox", "image": "mine"}], "fields": {"image": None}}

    made = {layout: run(job_in(layout, prompts=prompts)) for layout in ("parquet", "webdataset")}

    names = {layout: open_run(result.path).table().column_names for layout, result in made.items()}
    assert "source_image" in names["parquet"]
    assert "image" in names["webdataset"]


def test_the_index_of_tars_is_written_again_where_a_crash_cut_off_what_follows_the_manifest(
    job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    folder = tmp_path / "webdataset"
    run(job_in("webdataset"))
    index = json.loads((folder / "index.json").read_text())
    for name in ("manifest.parquet", "index.json", "README.md"):
        (folder / name).unlink()

    run(job_in("webdataset"))

    assert json.loads((folder / "index.json").read_text()) == index
    assert [(shard["nsamples"], shard["filesize"]) for shard in index["shardlist"]] == [
        (2, (folder / shard["url"]).stat().st_size) for shard in index["shardlist"]
    ]
    assert (folder / "README.md").exists()


# audit


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.sampled(4)
@each_container
@pytest.mark.parametrize("damage", ["gone", "cut", "in a picture", "between pictures"])
def test_a_damaged_container_is_found_and_its_shard_alone_is_redone(
    layout: str, damage: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    folder = tmp_path / layout
    run(job_in(layout))
    whole, good = audit(folder), artifacts(folder)
    row = rows_of(folder)[3 if damage == "in a picture" else 2]
    path, data = folder / row["file_name"], good[Path(row["file_name"]).name]
    match damage:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(data[:-1])
        case "in a picture":
            path.write_bytes(_flip(data, row["offset_bytes"] + 9))
        case "between pictures":
            path.write_bytes(_flip(data, len(data) - 9))

    found, fast = audit(folder), audit(folder, fast=True)
    repaired = audit(folder, repair=True)
    again = run(job_in(layout))

    kind = {"gone": "missing_file", "cut": "wrong_size"}.get(damage, "wrong_hash")
    assert [finding.kind for finding in found.findings] == [kind]
    assert row["request_id"] in str(found.findings[0])
    assert len(fast.findings) == (kind != "wrong_hash")
    assert (repaired.forgotten, again.generated) == ((1,), 2)
    assert artifacts(folder) == good
    assert audit(folder) == whole


@each_container
def test_containers_and_pieces_that_no_row_names_are_orphans_of_their_shard_once_it_is_done(
    layout: str, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    folder = tmp_path / layout
    run(job_in(layout))
    whole = audit(folder)
    names = [f"artifacts/00001-0123456789ab.{CONTAINERS[layout]}", f"artifacts/00001/{'a' * 26}-0123456789ab.png"]
    of_no_shard = [f"artifacts/00003-0123456789ab.{CONTAINERS[layout]}", "artifacts/.tmp-1"]
    for name in (*names, *of_no_shard):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"left over")
    part = folder / "manifest/00001-a0.parquet"
    undone = part.rename(tmp_path / "part")

    not_done = audit(folder, repair=True, grace_s=0)
    undone.rename(part)
    done = audit(folder, repair=True, grace_s=0)

    assert sorted(not_done.removed) == sorted(of_no_shard)
    assert sorted(done.removed) == sorted(names)
    assert audit(folder) == whole


# stores and clusters


@pytest.mark.sampled(2)
@each_container
def test_a_container_in_a_bucket_is_read_by_ranges(
    layout: str, s3_server: StoreServer, job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    local = run(job_in(layout))
    remote = run(job_in(layout, output={"path": s3_server.new_url(), "layout": layout}))

    there, here = open_run(local.path), open_run(remote.path)
    assert here.table().select([*MADE, *PLACES]) == there.table().select([*MADE, *PLACES])
    for row in here.table().to_pylist():
        assert hashlib.sha256(here.read_artifact(row)).hexdigest() == row["sha256"]
    assert audit(remote.path).findings == ()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@each_container
def test_ray_writes_the_files_that_inline_writes(layout: str, job_in: MakeLayoutJob, tmp_path: Path) -> None:
    inline = run(job_in(layout, output={"path": str(tmp_path / "inline"), "layout": layout}))
    execution = {"batch_size": 1, "shard_size": 2, "executor": "ray", "cpus_per_actor": 0.5, "actors": 2}

    on_ray = run(job_in(layout, execution=execution))

    columns = [*MADE, *PLACES]
    assert open_run(on_ray.path).table().select(columns) == open_run(inline.path).table().select(columns)
    assert artifacts(tmp_path / layout) == artifacts(tmp_path / "inline")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_shard_that_kills_its_worker_is_gathered_from_the_pieces_of_many(
    job_in: MakeLayoutJob, tmp_path: Path
) -> None:
    """Its rows are run by other processes than the one that writes the container."""
    layout = "webdataset"
    prompts = [f"picture {number}" for number in range(3)] + ["poison"]
    execution = {"batch_size": 1, "shard_size": 4, "executor": "ray", "cpus_per_actor": 0.5, "actors": 1}
    job = job_in(layout, prompts={"source": prompts}, samples_per_prompt=1, execution=execution)
    healthy = run({**job, "output": {"path": str(tmp_path / "healthy")}})

    result = run({**job, "backend": {"kind": "procedural", "crash_when": "poison"}})

    rows = rows_of(result.path)
    assert result.by_error_kind == {"worker_crashed": 1}
    assert [row["pixel_sha256"] for row in rows[:3]] == [row["pixel_sha256"] for row in rows_of(healthy.path)[:3]]
    assert len({row["file_name"] for row in rows[:3]}) == len(artifacts(tmp_path / layout)) == 1
    assert audit(result.path).findings == ()
